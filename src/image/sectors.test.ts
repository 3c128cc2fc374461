import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { SectorComparer, SectorScanner, sectorBytes } from './sectors.js'

interface Run {
  readonly isData: boolean
  readonly sectors: number
}

/** The rules written down plainly, on a list of "is this sector data". */
function plainRun(data: readonly boolean[], place: number, alignment: number): Run {
  const first = data[0] ?? false
  let length = data.findIndex((sector) => sector !== first)
  if (length < 0) {
    return { isData: first, sectors: data.length }
  }
  const tail = (place + length) % alignment
  let isData = first
  if (tail !== 0) {
    isData ||= length <= tail
    length += isData ? alignment - tail : -tail
  }
  return { isData, sectors: Math.min(length, data.length) }
}

function plainNext(data: readonly boolean[], place: number, min: number, alignment: number): Run {
  const first = plainRun(data, place, alignment)
  if (!first.isData) {
    return first
  }
  let used = first.sectors
  for (let at = used; at < data.length; ) {
    const run = plainRun(data.slice(at), place + at, alignment)
    at += run.sectors
    if (run.isData) {
      used = at
    } else if (run.sectors >= Math.min(min, data.length)) {
      break
    }
  }
  return { isData: true, sectors: used }
}

function bufferOf(data: readonly boolean[]): Uint8Array {
  const buffer = new Uint8Array(data.length * sectorBytes)
  data.forEach((sector, index) => {
    if (sector) {
      // Anywhere in the sector.
      buffer[index * sectorBytes + ((index * 97) % sectorBytes)] = 1 + (index % 255)
    }
  })
  return buffer
}

describe('finding zeroes', () => {
  test('one byte anywhere makes a sector data', () => {
    const buffer = new Uint8Array(3 * sectorBytes)
    const scanner = new SectorScanner(buffer)
    for (let at = 0; at < sectorBytes; at++) {
      buffer[sectorBytes + at] = 0x80
      expect([scanner.isZero(0), scanner.isZero(1), scanner.isZero(2)]).toEqual([true, false, true])
      expect([scanner.allZero(1), scanner.allZero(3)]).toEqual([true, false])
      buffer[sectorBytes + at] = 0
    }
    expect(scanner.allZero(3)).toBe(true)
  })

  test('runs follow the rules', () => {
    fc.assert(
      fc.property(
        fc.array(fc.boolean(), { minLength: 1, maxLength: 80 }),
        fc.nat(100),
        fc.nat(20),
        fc.constantFrom(1, 2, 8, 16),
        (data, place, min, alignment) => {
          const scanner = new SectorScanner(bufferOf(data))
          for (let at = 0; at < data.length; ) {
            scanner.next(at, data.length - at, place + at, min, alignment)
            const run = { isData: scanner.isData, sectors: scanner.sectors }
            expect(run).toEqual(plainNext(data.slice(at), place + at, min, alignment))
            expect(run.sectors).toBeGreaterThan(0)
            if (!run.isData) {
              expect(data.slice(at, at + run.sectors).includes(true)).toBe(false)
            }
            at += run.sectors
          }
        },
      ),
    )
  })
})

test('the first different sector is found', () => {
  const a = new Uint8Array(16 * sectorBytes).map((_, i) => i * 31)
  const b = a.slice()
  const comparer = new SectorComparer(a, b)
  expect(comparer.firstDifference(16)).toBe(16)
  for (const at of [0, 1, 511, 512, 5000, 16 * sectorBytes - 1]) {
    b[at] = (b[at] as number) ^ 0x10
    expect(comparer.firstDifference(16)).toBe(Math.floor(at / sectorBytes))
    b[at] = (b[at] as number) ^ 0x10
  }
  b[10 * sectorBytes] = (b[10 * sectorBytes] as number) ^ 1
  expect(comparer.firstDifference(10)).toBe(10)
})
