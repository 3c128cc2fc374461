/** Bytes in a sector, the unit in which contents are looked at. */
export const sectorBytes = 512
const wordsPerSector = sectorBytes / 4

/**
 * Looks for zero sectors in one buffer. The buffer must start at a multiple of 4 bytes of its memory;
 * it may change between calls.
 */
export class SectorScanner {
  readonly #words: Int32Array

  constructor(buffer: Uint8Array) {
    this.#words = new Int32Array(buffer.buffer, buffer.byteOffset, Math.floor(buffer.byteLength / 4))
  }

  /** Whether sector `index` of the buffer is zero. */
  isZero(index: number): boolean {
    const words = this.#words
    const start = index * wordsPerSector
    // Data betrays itself in its first word most of the time.
    if (words[start] !== 0) {
      return false
    }
    return this.#zeroWords(start, start + wordsPerSector)
  }

  /** Whether the first `bytes` (a multiple of 4) of the buffer are zero. */
  allZero(bytes: number): boolean {
    return this.#zeroWords(0, bytes / 4)
  }

  #zeroWords(start: number, end: number): boolean {
    const w = this.#words
    let at = start
    for (; at + 16 <= end; at += 16) {
      const any =
        (w[at] as number) | (w[at + 1] as number) | (w[at + 2] as number) | (w[at + 3] as number) |
        (w[at + 4] as number) | (w[at + 5] as number) | (w[at + 6] as number) | (w[at + 7] as number) |
        (w[at + 8] as number) | (w[at + 9] as number) | (w[at + 10] as number) | (w[at + 11] as number) |
        (w[at + 12] as number) | (w[at + 13] as number) | (w[at + 14] as number) | (w[at + 15] as number)
      if (any !== 0) {
        return false
      }
    }
    for (; at < end; at++) {
      if (w[at] !== 0) {
        return false
      }
    }
    return true
  }
}
