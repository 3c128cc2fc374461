import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { Folder, firstDifference, io, ours, theirs, withoutDates } from './tools.js'

/**
 * The same snapshot commands on the same image, by the oracle and by us: after each the files are
 * equal byte for byte, but for dates and for the contents of clusters that nothing uses.
 */
const folder = new Folder()
afterAll(() => folder.remove())

type Step = string | readonly string[]

const fills = ['write -P 1 0 128k', 'write -P 2 1M 64k', 'write -z 256k 64k', 'write -P 3 512k 4k']

const sequences: readonly { readonly name: string; readonly steps: readonly Step[] }[] = [
  { name: 'one of an empty image', steps: [['snapshot', '-c', 'a']] },
  { name: 'two in a row', steps: ['fill', ['snapshot', '-c', 'a'], ['snapshot', '-c', 'b']] },
  {
    name: 'writes in between',
    steps: ['fill', ['snapshot', '-c', 'a'], 'write -P 9 64k 100k', ['snapshot', '-c', 'b'], 'discard 0 64k'],
  },
  {
    name: 'back and forth',
    steps: [
      'fill',
      ['snapshot', '-c', 'a'],
      'write -P 9 64k 1M',
      ['snapshot', '-c', 'b'],
      ['snapshot', '-a', 'a'],
      'write -P 8 0 64k',
      ['snapshot', '-a', 'b'],
      ['snapshot', '-a', 'a'],
    ],
  },
  {
    name: 'the oldest, the newest and the last removed',
    steps: [
      'fill',
      ['snapshot', '-c', 'a'],
      'write -P 9 64k 1M',
      ['snapshot', '-c', 'b'],
      'write -P 8 0 64k',
      ['snapshot', '-c', 'c'],
      ['snapshot', '-d', 'a'],
      'write -P 7 0 64k',
      ['snapshot', '-d', 'c'],
      ['snapshot', '-c', 'd'],
      ['snapshot', '-d', 'b'],
      ['snapshot', '-d', 'd'],
      ['snapshot', '-c', 'e'],
    ],
  },
  {
    name: 'another size',
    steps: [
      'fill',
      ['snapshot', '-c', 'small'],
      ['resize', '8M'],
      'write -P 6 7M 64k',
      ['snapshot', '-c', 'large'],
      ['snapshot', '-a', 'small'],
      ['snapshot', '-a', 'large'],
      ['snapshot', '-d', 'small'],
      ['snapshot', '-a', 'large'],
    ],
  },
  {
    name: 'names and ids',
    steps: [
      ['snapshot', '-c', 'x'.repeat(300)],
      ['snapshot', '-c', 'ä ö ü'],
      ['snapshot', '-c', ''],
      ['snapshot', '-d', 'ä ö ü'],
      ['snapshot', '-c', '2'],
      ['snapshot', '-a', '3'],
    ],
  },
  {
    name: 'compressed clusters',
    steps: [
      'compress',
      ['snapshot', '-c', 'a'],
      'write -P 9 64k 100k',
      ['snapshot', '-a', 'a'],
      ['snapshot', '-d', 'a'],
    ],
  },
]

const kinds = [
  '',
  'cluster_size=4k',
  'cluster_size=512',
  'refcount_bits=8',
  'compat=0.10',
  'refcount_bits=64',
]

function create(cwd: string, options: string, compressed: boolean): void {
  const more = options === '' ? [] : ['-o', options]
  if (compressed) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', 'source', '2M'], { cwd })
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 4 0 256k', '-c', 'write -P 5 1M 64k', 'source'], {
      cwd,
    })
    execFileSync('qemu-img', ['convert', '-c', '-f', 'raw', '-O', 'qcow2', ...more, 'source', 'image'], {
      cwd,
    })
  } else {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...more, 'image', '2M'], { cwd })
  }
}

function command(step: readonly string[]): string[] {
  const [name = '', ...rest] = step
  return name === 'resize' ? [name, 'image', ...rest] : [name, ...rest, 'image']
}

for (const options of kinds) {
  describe(options === '' ? 'defaults' : options, () => {
    for (const { name, steps } of sequences) {
      if (options === 'compat=0.10' && name === 'another size') {
        continue
      }
      test(name, async () => {
        const a = folder.sub(`${options}-${name}-qemu`)
        const b = folder.sub(`${options}-${name}-ours`)
        create(a, options, steps[0] === 'compress')
        fs.copyFileSync(path.join(a, 'image'), path.join(b, 'image'))
        for (const step of steps) {
          if (step === 'compress') {
            continue
          }
          if (typeof step === 'string') {
            for (const cwd of [a, b]) {
              io(cwd, 'image', ...(step === 'fill' ? fills : [step]))
            }
            continue
          }
          const expected = theirs(a, ...command(step))
          expect(await ours(b, ...command(step))).toEqual(expected)
          expect(expected.status).toBe(0)
          const [x, y] = [a, b].map((cwd) => withoutDates(fs.readFileSync(path.join(cwd, 'image'))))
          expect(firstDifference(x as Uint8Array, y as Uint8Array), step.join(' ')).toBeUndefined()
        }
        expect(theirs(b, 'check', 'image')).toEqual(theirs(a, 'check', 'image'))
        expect(theirs(b, 'check', 'image').status).toBe(0)
      })
    }
  })
}
