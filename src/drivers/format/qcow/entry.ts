/** The part of an entry of a second-level table that says it is compressed; in the upper half. */
export const compressedFlag = 0x8000_0000

/** Most bytes of a file in which compressed data can be named, see {@link compressedCookie}. */
export function compressedEnd(clusterSize: number): number {
  return 2 ** 53 / clusterSize
}

/**
 * Place and length of compressed data in one number, for `MapPath.readEncoded`; undefined if it is too far
 * behind in the file.
 */
export function compressedCookie(high: number, low: number, clusterBits: number): number | undefined {
  const shift = 31 - clusterBits
  const offset = (high & (2 ** shift - 1)) * 0x1_0000_0000 + low
  const bytes = (high >>> shift) & (2 ** clusterBits - 1)
  return offset >= compressedEnd(2 ** clusterBits) ? undefined : offset * 2 ** clusterBits + bytes
}

/** The reverse of {@link compressedCookie}; bytes. */
export function compressedPlace(cookie: number, clusterBits: number): { offset: number; bytes: number } {
  const clusterSize = 2 ** clusterBits
  return { offset: Math.floor(cookie / clusterSize), bytes: cookie % clusterSize }
}

/** The entry of `bytes` bytes of compressed data at `offset`. */
export function compressedEntry(
  offset: number,
  bytes: number,
  clusterBits: number,
): { high: number; low: number } {
  const high = compressedFlag + bytes * 2 ** (31 - clusterBits) + Math.floor(offset / 0x1_0000_0000)
  return { high, low: offset % 0x1_0000_0000 }
}
