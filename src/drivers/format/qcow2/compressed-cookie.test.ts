import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compressedCookie, compressedEntry, compressedPlace } from './compressed-cookie.js'
import { Geometry } from './geometry.js'
import type { Qcow2Header } from './header.js'

function geometry(clusterBits: number): Geometry {
  const header = { version: 3, clusterBits, clusterSize: 2 ** clusterBits, refcountOrder: 4 }
  return new Geometry(header as Qcow2Header)
}

describe.each([9, 12, 16, 21])('compressed clusters of 2^%i bytes', (clusterBits) => {
  const sizes = geometry(clusterBits)

  test('entry and cookie keep the place', () => {
    // Offsets for which the cookie has room.
    const most = Math.min(2 ** sizes.compressedShift, 2 ** (53 - (clusterBits - 8))) - sizes.clusterSize
    fc.assert(
      fc.property(
        fc.maxSafeNat().map((offset) => offset % most),
        fc.integer({ min: 1, max: sizes.clusterSize - 1 }),
        (offset, bytes) => {
          const { high, low } = compressedEntry(offset, bytes, sizes)
          expect(high & 0xc0000000).toBe(0x40000000)
          const place = compressedPlace(compressedCookie(high, low, sizes), sizes)
          expect(place.offset).toBe(offset)
          // Up to the end of the last sector.
          expect((place.offset + place.bytes) % 512).toBe(0)
          expect(place.bytes - bytes).toBeGreaterThanOrEqual(0)
          expect(place.bytes - bytes).toBeLessThan(512)
        },
      ),
    )
  })
})

test('an offset too large for the cookie keeps its place and the largest length', () => {
  const sizes = geometry(21)
  const offset = 2 ** 48 + 12345
  const { high, low } = compressedEntry(offset, 100, sizes)
  const place = compressedPlace(compressedCookie(high, low, sizes), sizes)
  expect(place.offset).toBe(offset)
  expect(place.bytes).toBe(sizes.clusterSize * 2 - (offset % 512))
})
