import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ReferenceCounts } from './check-counts.js'
import { TableScan } from './check-scan.js'

const clusterSize = 65536

/** Counts a whole table as a check does; what needs a closer look is passed over. */
function scanned(table: Uint8Array): TableScan {
  const scan = new TableScan(table, clusterSize)
  const counts = new ReferenceCounts(4, 1000)
  const figures = { allocated: 0, fragmented: 0, nextContiguous: 0 }
  for (let at = 0; at + 8 <= table.length; at += 8) {
    at = scan.count(at, counts, 1000 * clusterSize, figures)
  }
  return scan
}

test('the entries of a table that has few', () => {
  const entry = fc.record({
    index: fc.oneof(fc.nat(8191), fc.constantFrom(0, 1, 2, 8190, 8191)),
    value: fc.oneof(
      fc.integer({ min: 1, max: 999 }).map((cluster) => (1n << 63n) | BigInt(cluster * clusterSize)),
      fc.constantFrom(1n, (1n << 62n) | 12345n, 0xffffffffffffffffn, 1n << 60n),
    ),
  })
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 300 }), fc.integer({ min: 0, max: 100 }), (entries, cut) => {
      const table = new Uint8Array(clusterSize - cut)
      const view = new DataView(table.buffer)
      for (const { index, value } of entries) {
        if (index * 8 + 8 <= table.length) {
          view.setBigUint64(index * 8, value)
        }
      }
      const expected: number[] = []
      for (let at = 0; at + 8 <= table.length; at += 8) {
        if (view.getBigUint64(at) !== 0n) {
          expected.push(...table.subarray(at, at + 8))
        }
      }
      const few = scanned(table).occupied()
      expect(few === undefined).toBe(expected.length > (table.length - (table.length % 8)) >> 5)
      if (few !== undefined) {
        expect([...few]).toEqual(expected)
      }
    }),
  )
})

test('a table full of entries is not copied', () => {
  expect(scanned(new Uint8Array(clusterSize).fill(1)).occupied()).toBeUndefined()
  expect(scanned(new Uint8Array(clusterSize)).occupied()).toEqual(new Uint8Array(0))
})
