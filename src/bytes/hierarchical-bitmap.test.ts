import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { HierarchicalBitmap } from './hierarchical-bitmap.js'

const KiB = 1024
const TiB = 2 ** 40

/** The same thing without any cleverness: one flag a bit. */
class Model {
  size: number
  readonly granularity: number
  flags: boolean[]

  constructor(size: number, granularity: number) {
    this.size = size
    this.granularity = granularity
    this.flags = Array.from({ length: Math.ceil(size / granularity) }, () => false)
  }

  change(offset: number, bytes: number, value: boolean): void {
    for (let at = offset; at < offset + bytes; at++) {
      this.flags[Math.floor(at / this.granularity)] = value
      at += this.granularity - 1 - (at % this.granularity)
    }
  }

  next(offset: number, bytes: number, value: boolean): number {
    for (let at = offset; at < Math.min(this.size, offset + bytes); at++) {
      if (this.flags[Math.floor(at / this.granularity)] === value) {
        return at
      }
      at += this.granularity - 1 - (at % this.granularity)
    }
    return -1
  }

  truncate(size: number): void {
    const bits = Math.ceil(size / this.granularity)
    this.flags = Array.from({ length: bits }, (_, bit) => this.flags[bit] ?? false)
    this.size = size
  }
}

function expectSame(bitmap: HierarchicalBitmap, model: Model): void {
  expect(bitmap.size).toBe(model.size)
  const dirty = model.flags.flatMap((flag, bit) => (flag ? [bit * model.granularity] : []))
  const seen: number[] = []
  const walk = bitmap.iterate()
  for (let at = walk.next(); at >= 0; at = walk.next()) {
    seen.push(at)
  }
  expect(seen).toEqual(dirty)
  expect(bitmap.setBits).toBe(dirty.length)
  expect(bitmap.count).toBe(dirty.length * model.granularity)
  expect(bitmap.isEmpty).toBe(dirty.length === 0)
}

// Leaves hold 32,768 bits: sizes around that and granularities that make trees of several levels.
const sizes = [0, 512, 700, 32768 * 512, 32768 * 512 + 1, 40 * 32768 * 512 - 512]

describe('against a plain array', () => {
  const step = fc.record({
    kind: fc.constantFrom('set', 'set', 'reset', 'dirty', 'zero', 'area', 'truncate', 'clear', 'serial'),
    a: fc.nat({ max: 2 ** 30 }),
    b: fc.nat({ max: 2 ** 30 }),
    short: fc.boolean(),
  })
  const granularities = [512, 4096, 65536, 2 ** 21]

  test('any sequence of operations', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...sizes),
        fc.constantFrom(...granularities),
        fc.array(step, { maxLength: 25 }),
        (size, granularity, steps) => {
          let bitmap = new HierarchicalBitmap(size, granularity)
          const model = new Model(size, granularity)
          for (const { kind, a, b, short } of steps) {
            const offset = model.size === 0 ? 0 : a % model.size
            const left = model.size - offset
            const bytes = left === 0 ? 0 : 1 + (b % Math.min(left, short ? 3 * granularity : left))
            switch (kind) {
              case 'set':
                bitmap.set(offset, bytes)
                model.change(offset, bytes, true)
                break
              case 'reset': {
                const start = offset - (offset % granularity)
                const end = Math.min(model.size, Math.ceil((offset + bytes) / granularity) * granularity)
                bitmap.reset(start, end - start)
                model.change(start, end - start, false)
                break
              }
              case 'dirty':
                expect(bitmap.nextDirty(offset, bytes)).toBe(model.next(offset, bytes, true))
                break
              case 'zero':
                expect(bitmap.nextZero(offset, bytes)).toBe(model.next(offset, bytes, false))
                break
              case 'area': {
                const first = model.next(offset, bytes, true)
                const max = short ? granularity : Number.MAX_SAFE_INTEGER
                const wanted = Math.min(offset + bytes - first, max)
                const stop = first < 0 ? -1 : model.next(first, wanted, false)
                expect(bitmap.nextDirtyArea(offset, offset + bytes, max)).toEqual(
                  first < 0 ? undefined : { offset: first, bytes: stop < 0 ? wanted : stop - first },
                )
                break
              }
              case 'truncate': {
                const length = b % (41 * 32768 * 512)
                bitmap.truncate(length)
                model.truncate(length)
                break
              }
              case 'clear':
                if (short) {
                  bitmap.clear()
                  model.change(0, model.size, false)
                }
                break
              case 'serial': {
                const bytesAll = new Uint8Array(bitmap.serializedLength(0, model.size))
                bitmap.serialize(0, model.size, bytesAll)
                model.flags.forEach((flag, bit) => {
                  if ((((bytesAll[bit >> 3] ?? 0) >> (bit & 7)) & 1) !== Number(flag)) {
                    throw new Error(`bit ${bit} is stored wrongly`)
                  }
                })
                const copy = new HierarchicalBitmap(model.size, granularity)
                copy.deserialize(0, model.size, bytesAll)
                bitmap = copy
                break
              }
            }
          }
          expectSame(bitmap, model)
          expect(model.size === 0 || bitmap.get(0) === model.flags[0]).toBe(true)
        },
      ),
      { numRuns: 60 },
    )
  })

  test('a union of two granularities', () => {
    const ranges = fc.array(fc.tuple(fc.nat({ max: 99 }), fc.integer({ min: 1, max: 40 })), { maxLength: 8 })
    fc.assert(
      fc.property(fc.constantFrom(512, 4096), fc.constantFrom(512, 4096), ranges, ranges, (g, h, a, b) => {
        const size = 100 * 1000
        const fill = (granularity: number, parts: [number, number][]) => {
          const bitmap = new HierarchicalBitmap(size, granularity)
          for (const [start, length] of parts) {
            bitmap.set(start * 1000, Math.min(length * 700, size - start * 1000))
          }
          return bitmap
        }
        const into = fill(g, a)
        const from = fill(h, b)
        const model = new Model(size, g)
        for (const source of [into, from]) {
          for (let area = source.nextDirtyArea(0); area !== undefined; ) {
            model.change(area.offset, area.bytes, true)
            area = source.nextDirtyArea(area.offset + area.bytes)
          }
        }
        const before = from.setBits
        into.merge(from)
        expectSame(into, model)
        expect(from.setBits).toBe(before)
        into.set(0, size)
        expect(from.setBits).toBe(before)
      }),
      { numRuns: 60 },
    )
  })
})

test('64 TiB at 64 KiB: setting and clearing everything takes no memory to speak of', () => {
  const bitmap = new HierarchicalBitmap(64 * TiB, 64 * KiB)
  bitmap.set(0, 64 * TiB)
  expect(bitmap.setBits).toBe(2 ** 30)
  expect(bitmap.nextZero(0)).toBe(-1)
  bitmap.reset(33 * TiB, 64 * KiB)
  expect(bitmap.nextZero(5)).toBe(33 * TiB)
  expect(bitmap.nextDirty(33 * TiB)).toBe(33 * TiB + 64 * KiB)
  expect(bitmap.nextDirtyArea(TiB)).toEqual({ offset: TiB, bytes: 32 * TiB })
  const copy = bitmap.clone()
  copy.set(33 * TiB + 1, 1)
  expect(copy.setBits).toBe(2 ** 30)
  expect(bitmap.setBits).toBe(2 ** 30 - 1)
})

test('single bits far apart are found at once', () => {
  const bitmap = new HierarchicalBitmap(2 ** 52, 512)
  const places = Array.from({ length: 200 }, (_, i) => i * 2 ** 44)
  for (const at of places) {
    bitmap.set(at, 1)
  }
  const walk = bitmap.iterate()
  expect(places.map(() => walk.next())).toEqual(places)
  expect(walk.next()).toBe(-1)
  walk.seek(3 * 2 ** 44 + 511)
  expect(walk.next()).toBe(3 * 2 ** 44)
  walk.seek(3 * 2 ** 44 + 512)
  expect(walk.next()).toBe(4 * 2 ** 44)
  bitmap.reset(5 * 2 ** 44, 512)
  expect(walk.next()).toBe(6 * 2 ** 44)
})

test('pieces are serialised in words of 64 bits, the lowest bit first', () => {
  const bitmap = new HierarchicalBitmap(130 * 512, 512)
  expect(bitmap.serialAlignment).toBe(64 * 512)
  expect(bitmap.serializedLength(0, 130 * 512)).toBe(24)
  bitmap.set(0, 512)
  bitmap.set(9 * 512, 512)
  bitmap.set(129 * 512, 512)
  const bytes = new Uint8Array(26).fill(0xaa)
  expect(bitmap.serialize(0, 130 * 512, bytes, 1)).toBe(24)
  expect([...bytes]).toEqual([0xaa, 1, 2, ...Array(14).fill(0), 2, ...Array(7).fill(0), 0xaa])
  const part = new Uint8Array(8)
  expect(bitmap.serialize(128 * 512, 2 * 512, part)).toBe(8)
  expect([...part]).toEqual([2, 0, 0, 0, 0, 0, 0, 0])
  const other = new HierarchicalBitmap(130 * 512, 512)
  // Bits past the end are not there, whatever is stored.
  other.deserialize(128 * 512, 2 * 512, new Uint8Array(8).fill(0xff))
  expect(other.setBits).toBe(2)
  other.truncate(192 * 512)
  expect(other.setBits).toBe(2)
})

test('wrong calls are refused', () => {
  expect(() => new HierarchicalBitmap(512, 3)).toThrow('is not a power of two')
  expect(() => new HierarchicalBitmap(-1, 512)).toThrow(RangeError)
  const bitmap = new HierarchicalBitmap(10_000, 512)
  expect(() => bitmap.set(9_999, 2)).toThrow('is outside a bitmap over 10000 bytes')
  expect(() => bitmap.reset(100, 512)).toThrow('does not consist of whole bits')
  expect(() => bitmap.serialize(512, 512, new Uint8Array(8))).toThrow('cannot be serialised')
  expect(() => bitmap.merge(new HierarchicalBitmap(512, 512))).toThrow('cannot join')
  expect(() => bitmap.serialize(0, 10_000, new Uint8Array(7))).toThrow(RangeError)
  bitmap.reset(9_728, 272)
  expect(bitmap.nextDirty(20_000)).toBe(-1)
})
