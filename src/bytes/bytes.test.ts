import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import * as bytes from './index.js'

describe('endian', () => {
  const array = new Uint8Array(32)
  const view = new DataView(array.buffer)

  test('16 and 32 bits agree with DataView', () => {
    fc.assert(
      fc.property(fc.nat(0xffff), fc.integer({ min: 0, max: 0xffffffff }), fc.nat(20), (u16, u32, at) => {
        bytes.writeU16BE(array, at, u16)
        expect([view.getUint16(at), bytes.readU16BE(array, at)]).toEqual([u16, u16])
        bytes.writeU16LE(array, at, u16)
        expect([view.getUint16(at, true), bytes.readU16LE(array, at)]).toEqual([u16, u16])
        bytes.writeU32BE(array, at, u32)
        expect([view.getUint32(at), bytes.readU32BE(array, at)]).toEqual([u32, u32])
        bytes.writeU32LE(array, at, u32)
        expect([view.getUint32(at, true), bytes.readU32LE(array, at)]).toEqual([u32, u32])
      }),
    )
  })

  test('64 bits agree with DataView', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.nat(20), (u64, at) => {
        bytes.writeU64BE(array, at, u64)
        expect([Number(view.getBigUint64(at)), bytes.readU64BE(array, at)]).toEqual([u64, u64])
        bytes.writeU64LE(array, at, u64)
        expect([Number(view.getBigUint64(at, true)), bytes.readU64LE(array, at)]).toEqual([u64, u64])
      }),
    )
  })

  test('what a number cannot hold is Infinity', () => {
    for (const value of [2n ** 53n, 2n ** 53n + 1n, 2n ** 64n - 1n]) {
      view.setBigUint64(0, value)
      view.setBigUint64(8, value, true)
      expect(bytes.readU64BE(array, 0)).toBe(Number.POSITIVE_INFINITY)
      expect(bytes.readU64LE(array, 8)).toBe(Number.POSITIVE_INFINITY)
    }
  })

  test('outside the array and unsafe values throw', () => {
    expect(() => bytes.readU32BE(array, 29)).toThrow(RangeError)
    expect(() => bytes.readU64LE(array, -1)).toThrow(RangeError)
    expect(() => bytes.writeU16LE(array, 31, 1)).toThrow(RangeError)
    expect(() => bytes.writeU64BE(array, 0, 2 ** 53)).toThrow(RangeError)
    expect(() => bytes.writeU64LE(array, 0, -1)).toThrow(RangeError)
    expect(() => bytes.writeU64LE(array, 0, 0.5)).toThrow(RangeError)
  })
})

test('alignment works beyond 2^32', () => {
  expect(bytes.alignDown(2 ** 45 + 700, 512)).toBe(2 ** 45 + 512)
  expect(bytes.alignUp(2 ** 45 + 700, 512)).toBe(2 ** 45 + 1024)
  expect(bytes.alignUp(2 ** 45, 512)).toBe(2 ** 45)
  expect([bytes.isAligned(2 ** 40, 4096), bytes.isAligned(2 ** 40 + 1, 4096)]).toEqual([true, false])
  for (let bit = 0; bit < 53; bit++) {
    expect(bytes.isPowerOfTwo(2 ** bit)).toBe(true)
    expect(bytes.powerOfTwoFloor(2 ** bit)).toBe(2 ** bit)
    if (bit > 1) {
      expect(bytes.isPowerOfTwo(2 ** bit - 1)).toBe(false)
      expect(bytes.isPowerOfTwo(2 ** bit + 1)).toBe(false)
      expect(bytes.powerOfTwoFloor(2 ** bit + 1)).toBe(2 ** bit)
    }
  }
  for (const bad of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 52 + 2 ** 20]) {
    expect(bytes.isPowerOfTwo(bad)).toBe(false)
  }
})

describe('against qemu-img', () => {
  const folder = mkdtempSync(join(tmpdir(), 'blockgraph-bytes-'))
  const qemu = (...args: string[]) => execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8' })
  const cleanup = () => rmSync(folder, { recursive: true, force: true })

  test('sizes as people read them', () => {
    const sizes = [
      0,
      512,
      1000,
      1023,
      1024,
      999 * 1024,
      1000 * 1024 - 512,
      1000 * 1024,
      1024 * 1024 - 512,
      1024 * 1024,
      1152 * 1024 * 1024,
      2 ** 30 * 1.125,
      2 ** 30 * 1.375,
      1.5 * 2 ** 30,
      1023 * 2 ** 20,
      196 * 1024 + 512,
      2 ** 40 * 5,
      2 ** 50 / 4,
      10.25 * 2 ** 20,
      10.75 * 2 ** 20,
      123456789 * 512,
    ]
    for (const size of sizes.map((value) => value - (value % 512))) {
      qemu('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', 'size', String(size))
      const line = /virtual size: (.*) \(/.exec(qemu('info', 'size'))
      expect(bytes.sizeText(size), String(size)).toBe(line?.[1])
    }
  })

  test('strings and the order of keys', () => {
    const name = 'é\x7f"\\\n\t\b\f\r\x01/\u{1f600}.qcow2'.replace('/', '')
    qemu('create', '-q', '-f', 'qcow2', name, '1M')
    const text = qemu('info', '--output=json', name)
    expect(text).toContain(`"filename": ${bytes.jsonString(name)},`)
    const keys = Object.keys(JSON.parse(text) as object)
    expect(bytes.qdictOrder([...keys].sort())).toEqual(keys)
  })

  test('pretty text, with an empty list', () => {
    qemu('create', '-q', '-f', 'qcow2', 'bitmaps', '1M')
    qemu('bitmap', '--add', '--disable', 'bitmaps', 'b0')
    const text = qemu('info', '--output=json', 'bitmaps')
    expect(text).toContain('[\n                    ]')
    expect(`${bytes.jsonPretty(JSON.parse(text))}\n`).toBe(text)
  })

  test('compact text, as json: names have it', () => {
    qemu('create', '-q', '-f', 'raw', 'raw', '1M')
    const name = 'json:{"driver":"raw","offset":512,"size":1024,"file":{"driver":"file","filename":"raw"}}'
    const info = JSON.parse(qemu('info', '--output=json', name)) as { filename: string }
    const shown: unknown = JSON.parse(info.filename.slice('json:'.length))
    expect(`json:${bytes.jsonCompact(shown)}`).toBe(info.filename)
    expect(bytes.qdictOrder(['driver', 'offset', 'size', 'file'])).toEqual(Object.keys(shown as object))
    cleanup()
  })
})

test('fixed digits as printf prints them', () => {
  const values = [
    0,
    0.5,
    1.5,
    2.5,
    3.125,
    0.375,
    6.25,
    94.117647,
    99.995,
    1e15 + 0.5,
    0.005,
    1 / 3,
    100,
    0.125,
    0.001953125,
  ]
  for (const digits of [0, 1, 2, 3, 8]) {
    const shown = execFileSync('bash', ['-c', `printf '%.${digits}f\\n' "$@"`, '', ...values.map(String)], {
      encoding: 'utf8',
      env: { LC_ALL: 'C' },
    })
    // The shell's printf works in long double: only values that are short in binary are the same there.
    values.forEach((value, index) => {
      if (Number.isInteger(value * 1024)) {
        expect(bytes.fixedText(value, digits)).toBe(shown.split('\n')[index])
      } else {
        expect(bytes.fixedText(value, digits)).toBe(value.toFixed(digits))
      }
    })
  }
})

test('empty containers, odd values', () => {
  expect(bytes.jsonPretty({})).toBe('{\n}')
  expect(bytes.jsonPretty([])).toBe('[\n]')
  expect(bytes.jsonCompact({ a: [], b: {}, c: undefined, d: null, e: [1, true] })).toBe(
    '{"a": [], "b": {}, "d": null, "e": [1, true]}',
  )
  expect(() => bytes.jsonCompact({ a: () => 1 })).toThrow(TypeError)
})

test('keys of one bucket come newest first', () => {
  const order = bytes.qdictOrder(Array.from({ length: 3000 }, (_, i) => `key${i}`))
  expect(new Set(order).size).toBe(3000)
  expect(bytes.qdictOrder(['a', 'b', 'c'])).toEqual(bytes.qdictOrder(['c', 'b', 'a']))
})
