import { spawnSync } from 'node:child_process'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Getopt, type LongOption } from './getopt.js'

const long: LongOption[] = [
  { name: 'help', argument: false, value: 'h' },
  { name: 'output', argument: true, value: 'output' },
  { name: 'object', argument: true, value: 'object' },
  { name: 'format', argument: true, value: 'f' },
]

function parse(argv: string[], short = ':f:hUx') {
  const messages: string[] = []
  const getopt = new Getopt(['prog', ...argv], short, long, (text) => messages.push(text))
  const options: string[] = []
  for (let next = getopt.next(); next !== undefined; next = getopt.next()) {
    options.push(next.argument === '' ? next.option : `${next.option}=${next.argument}`)
    if (next.option === '?' || next.option === ':') {
      return { options, at: getopt.previous, messages }
    }
  }
  return { options, operands: getopt.operands, messages }
}

describe('options and operands', () => {
  test('may be mixed', () => {
    expect(parse(['a', '-U', 'b', '-f', 'raw', 'c', '--output', 'json', 'd'])).toMatchObject({
      options: ['U', 'f=raw', 'output=json'],
      operands: ['a', 'b', 'c', 'd'],
    })
  })

  test('-- ends the options', () => {
    expect(parse(['a', '-U', '--', '-f', 'b'])).toMatchObject({ options: ['U'], operands: ['a', '-f', 'b'] })
    expect(parse(['--'])).toMatchObject({ options: [], operands: [] })
    expect(parse(['a', '--', 'b', '--', 'c'])).toMatchObject({ operands: ['a', 'b', '--', 'c'] })
  })

  test('a lone dash is an operand', () => {
    expect(parse(['-', '-U'])).toMatchObject({ options: ['U'], operands: ['-'] })
  })

  test('in order', () => {
    expect(parse(['-U', 'cmd', '-x'], '+:Ux')).toMatchObject({ options: ['U'], operands: ['cmd', '-x'] })
  })

  test('letters together, arguments attached', () => {
    expect(parse(['-Uxfraw', '-fa', '-f', '', '--format=b', '--fo', 'c', '--output='])).toMatchObject({
      options: ['U', 'x', 'f=raw', 'f=a', 'f', 'f=b', 'f=c', 'output'],
    })
  })
})

describe('messages of the library', () => {
  for (const [argv, message] of [
    [['-Z'], "prog: invalid option -- 'Z'"],
    [['-f'], "prog: option requires an argument -- 'f'"],
    [['--zz'], "prog: unrecognized option '--zz'"],
    [['--help=1'], "prog: option '--help' doesn't allow an argument"],
    [['--he=1'], "prog: option '--help' doesn't allow an argument"],
    [['--output'], "prog: option '--output' requires an argument"],
    [['--o=1'], "prog: option '--o=1' is ambiguous; possibilities: '--output' '--object'"],
  ] as const) {
    test(argv.join(' '), () => {
      expect(parse([...argv], 'f:hUx').messages).toEqual([message])
    })
  }
})

test('the same as qemu-img: which words it stumbles over', () => {
  const word = fc.constantFrom(
    'r',
    '-U',
    '-f',
    '-fraw',
    '-Z',
    '-UZf',
    '-Uf',
    '--',
    '--output',
    '--output=human',
    '--ob',
    '-',
    '--f',
    '--zz',
    '-UZ',
  )
  const options: LongOption[] = [
    { name: 'help', argument: false, value: 'h' },
    { name: 'format', argument: true, value: 'f' },
    { name: 'output', argument: true, value: 'output' },
    { name: 'backing-chain', argument: false, value: 'backing-chain' },
    { name: 'object', argument: true, value: 'object' },
    { name: 'image-opts', argument: false, value: 'image-opts' },
    { name: 'force-share', argument: false, value: 'U' },
  ]
  fc.assert(
    fc.property(fc.array(word, { maxLength: 5 }), (argv) => {
      const getopt = new Getopt(['info', ...argv], ':f:hU', options)
      let expected = ''
      for (let next = getopt.next(); next !== undefined && expected === ''; next = getopt.next()) {
        if (next.option === ':') {
          expected = `missing argument for option '${getopt.previous}'`
        } else if (next.option === '?') {
          expected = `unrecognized option '${getopt.previous}'`
        } else if (next.option === 'object') {
          // What is wrong with the object is another matter.
          return
        }
      }
      if (expected === '' && getopt.operands.length !== 1) {
        expected = 'Expecting one image file name'
      }
      const { stderr } = spawnSync('qemu-img', ['info', ...argv], { encoding: 'utf8', cwd: '/' })
      if (expected === '') {
        expect(stderr).toMatch(/Could not open|--output must/)
      } else {
        expect(stderr.split('\n')[0]).toBe(`qemu-img: ${expected}`)
      }
    }),
    { numRuns: 200 },
  )
})
