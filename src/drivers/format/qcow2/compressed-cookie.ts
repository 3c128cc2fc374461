import type { Geometry } from './geometry.js'

/** Host sectors that the length of a compressed cluster is counted in, bytes. */
export const compressedSectorBytes = 512

/** Where a compressed cluster stands: bytes, not aligned. */
export interface CompressedPlace {
  readonly offset: number
  /** Upper bound: up to the end of the last sector it touches. */
  readonly bytes: number
}

/**
 * Packs the place of a compressed cluster into one safe integer: offset × 2^n + (sectors - 1), where
 * 2^n - 1 is the largest number of further sectors. Offsets that leave no room for the sectors (beyond
 * 32 TiB with 64 KiB clusters) become negative, and the length counts as the largest possible.
 */
export function compressedCookie(high: number, low: number, geometry: Geometry): number {
  const shift = geometry.compressedShift - 32
  const flagless = high & 0x3fffffff
  const sectors = flagless >>> shift
  const offset = (flagless & (2 ** shift - 1)) * 0x100000000 + low
  const scale = 2 ** (geometry.clusterBits - 8)
  const cookie = offset * scale + sectors
  return cookie <= Number.MAX_SAFE_INTEGER ? cookie : -offset
}

export function compressedPlace(cookie: number, geometry: Geometry): CompressedPlace {
  const scale = 2 ** (geometry.clusterBits - 8)
  const offset = cookie < 0 ? -cookie : Math.floor(cookie / scale)
  const sectors = cookie < 0 ? scale : (cookie % scale) + 1
  return { offset, bytes: sectors * compressedSectorBytes - (offset % compressedSectorBytes) }
}

/** The L2 entry for `bytes` compressed bytes at `offset`, as upper and lower 32 bits. */
export function compressedEntry(
  offset: number,
  bytes: number,
  geometry: Geometry,
): { high: number; low: number } {
  const first = Math.floor(offset / compressedSectorBytes)
  const last = Math.floor((offset + bytes - 1) / compressedSectorBytes)
  const shift = geometry.compressedShift - 32
  const high = 0x40000000 + (last - first) * 2 ** shift + Math.floor(offset / 0x100000000)
  return { high, low: offset % 0x100000000 }
}
