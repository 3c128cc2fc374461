/**
 * Bitmaps with one bit a sector. `order` is {@link highFirst} where the first sector is the highest bit of
 * its byte, {@link lowFirst} where it is the lowest.
 */

export const highFirst = 7
export const lowFirst = 0

type BitOrder = typeof highFirst | typeof lowFirst

export function bitIsSet(bits: Uint8Array, index: number, order: BitOrder): boolean {
  return (((bits[index >>> 3] ?? 0) >>> ((index & 7) ^ order)) & 1) === 1
}

/** How many bits from `first` on, before `limit`, are as `first` is. At least 1. */
export function bitRun(bits: Uint8Array, first: number, limit: number, order: BitOrder): number {
  const set = bitIsSet(bits, first, order)
  const whole = set ? 0xff : 0
  let at = first + 1
  while (at < limit) {
    if ((at & 7) === 0 && bits[at >>> 3] === whole) {
      at += 8
    } else if (bitIsSet(bits, at, order) === set) {
      at++
    } else {
      break
    }
  }
  return Math.max(1, Math.min(at, limit) - first)
}

/** Sets `count` bits from `first` on. */
export function setBits(bits: Uint8Array, first: number, count: number, order: BitOrder): void {
  const end = first + count
  for (let at = first; at < end; ) {
    if ((at & 7) === 0 && end - at >= 8) {
      bits[at >>> 3] = 0xff
      at += 8
    } else {
      bits[at >>> 3] = (bits[at >>> 3] ?? 0) | (1 << ((at & 7) ^ order))
      at++
    }
  }
}
