import { execFileSync, spawnSync } from 'node:child_process'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isBlockError } from '../errors/index.js'
import { OptionDict, parseJson, parseJsonFilename } from './index.js'

/** What `qemu-img` says about a `json:` name, or undefined if it can read it. */
function oracle(text: string): string | undefined {
  const name = `json:${text}`
  const { stderr } = spawnSync('qemu-img', ['info', name], { encoding: 'utf8' })
  const message = stderr.slice(`qemu-img: Could not open '${name}': `.length, -1)
  return /JSON/.test(message) ? message : undefined
}

function ours(text: string): string | undefined {
  try {
    parseJsonFilename(`json:${text}`)
    return undefined
  } catch (error) {
    return isBlockError(error) ? error.message : String(error)
  }
}

const deep = (open: string, close: string, times: number) => open.repeat(times) + close.repeat(times)

const cases = [
  '',
  ' ',
  '{',
  '}',
  '[',
  '{}',
  '[]',
  '1',
  '"a"',
  'null',
  '{"a"}',
  '{"a":}',
  '{"a":1',
  '{"a":1,}',
  '{"a":1 "b":2}',
  "{'a':1}",
  '{"a":tru}',
  '{"a":truex}',
  '{"a":true1}',
  '{"a":True}',
  '{"a":01}',
  '{"a":-}',
  '{"a":1.}',
  '{"a":.5}',
  '{"a":1e}',
  '{"a":1e+}',
  '{"a":1.5e}',
  '{"a":1.5e5}',
  '{"a":0e1}',
  '{"a":-0e1}',
  '{"a":0.0e1}',
  '{"a":1a}',
  '{"a":1-}',
  '{"a":1-2}',
  '{"a":1"b"}',
  '{"a":99999999999999999999}',
  '{"a":-01}',
  '{"a":"\\q"}',
  '{"a":"\\u12"}',
  '{"a":"\\u12',
  '{"a":"\\u123g"}',
  '{"a":"\\uD800"}',
  '{"a":"\\uD800x"}',
  '{"a":"\\uD800\\uDC00"}',
  '{"a":"\\uD800\\u0041"}',
  '{"a":"\\uDC00"}',
  '{"a":"\\uFFFF"}',
  '{"a":"\\uFDD0"}',
  '{"a":"\\uD83F\\uDFFE"}',
  '{"a":"\\u0000"}',
  '{"a":"x',
  '{"a":"\n"}',
  '{"a":"\t"}',
  '{"a":"\x01"}',
  '{"a":"x\\',
  '{"a":"x\\\n"}',
  "{'a':'b\"c'}",
  "{'a':'b\\'c'}",
  "{'a':'b",
  '{"a":1}}',
  '{"a":1}x',
  '{"a":1} 2',
  '{"a":1}{"b":2}',
  '{"a":1} @',
  '1 2',
  '1 @',
  '1,',
  '1 }',
  '{"a":1} ',
  '  {"a":1}',
  '{,}',
  '{"a":,}',
  '{"a"::1}',
  '{1:2}',
  '{null:2}',
  '{[]:2}',
  '{{}:2}',
  '{"a":1,"a":2}',
  '[1,]',
  '[1 2]',
  '[1',
  '[,]',
  '{"a":[1,]}',
  '{"a":[1 2]}',
  '%s',
  '{"a":%s}',
  '&',
  '@',
  'nan',
  '{"a":/}',
  '-',
  '--1',
  '+1',
  '"abc',
  "'abc'",
  '{"a": xyz}',
  'true',
  '{"a":1]',
  '[1}',
  '{]',
  '[}',
  ':',
  ',',
  '{"a":1,,"b":2}',
  '{"a":-0}',
  '{"a":"\\/"}',
  '{"a":\\}',
  '{"a":1;}',
  '{"a":_}',
  '{"a":#}',
  '\u{1f600}',
  '\v',
  '{"a":1\f}',
  '{"__proto__":1}',
  deep('[', ']', 1024),
  deep('[', ']', 1025),
  deep('{"a":', '}', 1025),
  deep('[', '', 1023),
  '{"a" 1}',
  '{"a":1:2}',
  '["a":1]',
  '{"a":{"b":{"c":[{}]}}}',
]

describe('against qemu-img', () => {
  for (const text of cases) {
    test(`json:${text.slice(0, 40)}`, () => {
      expect(ours(text)).toBe(oracle(text))
    })
  }

  test('random damage', () => {
    const good = '{"driver":"raw","n":-1.5e3,"file":{"x":["y\\n\\u0041",true,null,0]}}'
    const junk = fc.constantFrom(...' {}[]:,"\'\\-+.019eEutrulfalse%@\t'.split(''))
    const damaged = fc
      .array(fc.tuple(fc.nat(good.length), fc.nat(2), junk), { minLength: 1, maxLength: 3 })
      .map((edits) =>
        edits.reduce((text, [at, cut, char]) => text.slice(0, at) + char + text.slice(at + cut), good),
      )
    fc.assert(
      fc.property(damaged, (text) => {
        expect(ours(text)).toBe(oracle(text))
      }),
      { numRuns: 150 },
    )
  })

  test('names come back as QEMU writes them', () => {
    for (const text of [
      '{"driver":"null-co","size":1048576,"read-zeroes":true}',
      '{"driver":"null-co","size":"1M","read-zeroes":"on","latency-ns":0}',
    ]) {
      const info = execFileSync('qemu-img', ['info', '--output=json', `json:${text}`], { encoding: 'utf8' })
      const { filename } = JSON.parse(info) as { filename: string }
      expect(parseJsonFilename(filename).size).toBeGreaterThan(1)
    }
  })
})

test('values', () => {
  fc.assert(
    fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
      const text = JSON.stringify(value)
      expect(parseJson(text)).toEqual(JSON.parse(text))
    }),
  )
  expect(parseJson("'a\\'b\"c'")).toBe('a\'b"c')
  expect(parseJson('"\\u00e4\\uD83D\\uDE00\\/\\b\\f\\n\\r\\t"')).toBe('ä\u{1f600}/\b\f\n\r\t')
})

test('nested options are flat', () => {
  const dict = parseJsonFilename('json:{"a":{"b":1,"c":["x",{"d":null}]},"e":true,"f":{}}')
  expect(dict).toBeInstanceOf(OptionDict)
  expect([...dict.entries()]).toEqual([
    ['a.b', 1],
    ['a.c.0', 'x'],
    ['a.c.1.d', null],
    ['e', true],
  ])
})
