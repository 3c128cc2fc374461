import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CachedTable } from '../../../formatkit/index.js'
import { refcountAt } from './check-counts.js'
import { RefcountFormat } from './refcount-block.js'

describe.each([0, 1, 2, 3, 4, 5, 6])('refcounts of 2^%i bits', (order) => {
  const format = new RefcountFormat(order)
  const entries = 4096 / 2 ** order

  test('count up and down independently, as the checker reads them', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(entries - 1), fc.constantFrom(1 as const, -1 as const))),
        (steps) => {
          const block = new CachedTable(0, new Uint8Array(512))
          const model = new Map<number, number>()
          for (const [index, delta] of steps) {
            const old = model.get(index) ?? 0
            const allowed = delta > 0 ? old < format.max : old > 0
            expect(format.canAdd(block, index, delta)).toBe(allowed)
            if (allowed) {
              format.add(block, index, delta)
              model.set(index, old + delta)
            }
          }
          for (let index = 0; index < entries; index++) {
            expect(format.get(block, index)).toBe(model.get(index) ?? 0)
            expect(refcountAt(block.bytes, index, order)).toBe(model.get(index) ?? 0)
          }
          const used = [...model.keys()].filter((index) => model.get(index) !== 0)
          const firstFree = [...Array(entries).keys()].find((index) => !used.includes(index)) ?? entries
          expect(format.findFree(block, 0, entries)).toBe(firstFree)
        },
      ),
      { numRuns: 15 },
    )
  })

  test('stop at the largest', () => {
    const block = new CachedTable(0, new Uint8Array(512).fill(0xff))
    expect(format.canAdd(block, 3, 1)).toBe(false)
    expect(format.get(block, 3)).toBe(format.max)
    format.add(block, 3, -1)
    expect(format.canAdd(block, 3, 1)).toBe(true)
    format.add(block, 3, 1)
    expect(block.bytes.every((byte) => byte === 0xff)).toBe(true)
    expect(format.findFree(block, 0, entries)).toBe(entries)
  })
})

test('64-bit refcounts carry between their halves', () => {
  const format = new RefcountFormat(6)
  const block = new CachedTable(0, new Uint8Array(512))
  block.view.setUint32(12, 0xffffffff)
  format.add(block, 1, 1)
  expect([block.view.getUint32(8), block.view.getUint32(12)]).toEqual([1, 0])
  format.add(block, 1, -1)
  expect([block.view.getUint32(8), block.view.getUint32(12)]).toEqual([0, 0xffffffff])
})
