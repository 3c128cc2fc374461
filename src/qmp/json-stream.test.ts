import { expect, expectTypeOf, test } from 'vitest'
import {
  type ArgumentsOf,
  type EventDataOf,
  JsonNumber,
  JsonStream,
  type ReturnOf,
  wireText,
} from './index.js'

/** What a stream makes of text that comes in pieces of `step` bytes. */
function read(text: string, step: number): string[] {
  const result: string[] = []
  const stream = new JsonStream({
    message: (value) => result.push(wireText(value)),
    error: (error) => result.push(error.message),
  })
  const bytes = new TextEncoder().encode(text)
  for (let at = 0; at < bytes.length; at += step) {
    stream.feed(bytes, at, Math.min(step, bytes.length - at))
  }
  return result
}

test('values come out whole, however the bytes arrive', () => {
  const text = '{"a": [1, -2.50, 1e3], "é\\"": "\\u00e9"} [] true x 7\n{"b": {}}%,{"c":null}'
  const whole = read(text, 1 << 20)
  expect(whole).toEqual([
    '{"\\u00E9\\"": "\\u00E9", "a": [1, -2.5, 1000]}',
    '[]',
    'true',
    "JSON parse error, invalid keyword 'x'",
    '7',
    '{"b": {}}',
    "JSON parse error, stray '%'",
    'JSON parse error, expecting value',
    '{"c": null}',
  ])
  for (const step of [1, 2, 3, 7]) {
    expect(read(text, step)).toEqual(whole)
  }
})

test('numbers that no JavaScript number is equal to keep their text', () => {
  const text = (number: string) => new JsonNumber(number).toString()
  expect(text('9007199254740993')).toBe('9007199254740993')
  expect(text('18446744073709551615')).toBe('18446744073709551615')
  expect(text('18446744073709551616')).toBe('1.8446744073709552e+19')
  expect(text('-9223372036854775808')).toBe('-9223372036854775808')
  expect(text('0.1')).toBe('0.10000000000000001')
  expect(text('1e-5')).toBe('1.0000000000000001e-05')
  expect(text('123456789.5')).toBe('123456789.5')
  expect(text('0.0')).toBe('0')
})

test('the types of TypeScript are those of the schema', () => {
  expectTypeOf<ArgumentsOf<'block_resize'>['size']>().toEqualTypeOf<number>()
  expectTypeOf<ArgumentsOf<'block-export-del'>['mode']>().toEqualTypeOf<'safe' | 'hard' | undefined>()
  expectTypeOf<ReturnOf<'ringbuf-read'>>().toEqualTypeOf<string>()
  expectTypeOf<EventDataOf<'BLOCK_EXPORT_DELETED'>['id']>().toEqualTypeOf<string>()
  const options: ArgumentsOf<'blockdev-add'> = {
    driver: 'qcow2',
    file: { driver: 'file', filename: 'a' },
    backing: null,
  }
  // @ts-expect-error a member that another driver has
  const wrong: ArgumentsOf<'blockdev-add'> = { driver: 'raw', file: 'a', filename: 'b' }
  expect([options.driver, wrong.driver]).toEqual(['qcow2', 'raw'])
})
