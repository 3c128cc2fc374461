/** A block's bitmap: one bit a sector, the first one in the highest bit of the first byte. */

/** Whether the sector at `index` is the disk's own. */
export function sectorsAreSet(bitmap: Uint8Array, index: number): boolean {
  return (((bitmap[index >>> 3] ?? 0) >>> (7 - (index & 7))) & 1) === 1
}

/** How many sectors from `first` on, before `limit`, have the same bit as `first`. At least 1. */
export function sectorRun(bitmap: Uint8Array, first: number, limit: number): number {
  const set = sectorsAreSet(bitmap, first)
  const whole = set ? 0xff : 0
  let at = first + 1
  while (at < limit) {
    if ((at & 7) === 0 && bitmap[at >>> 3] === whole) {
      at += 8
    } else if (sectorsAreSet(bitmap, at) === set) {
      at++
    } else {
      break
    }
  }
  return Math.max(1, Math.min(at, limit) - first)
}

/** The `count` sectors from `first` on are the disk's own from now on. */
export function setSectors(bitmap: Uint8Array, first: number, count: number): void {
  const end = first + count
  for (let at = first; at < end; ) {
    if ((at & 7) === 0 && end - at >= 8) {
      bitmap[at >>> 3] = 0xff
      at += 8
    } else {
      bitmap[at >>> 3] = (bitmap[at >>> 3] ?? 0) | (0x80 >>> (at & 7))
      at++
    }
  }
}
