/** Bytes in a sector, the unit in which contents are looked at. */
export const sectorBytes = 512
const sectorWords = sectorBytes / 4

/** A view of `buffer` as 32-bit words; the buffer must start at a multiple of 4 bytes of its memory. */
function wordsOf(buffer: Uint8Array): Int32Array {
  return new Int32Array(buffer.buffer, buffer.byteOffset, buffer.byteLength >>> 2)
}

/** Four words of `w` from `i` on, or-ed. All of them exist. */
function or4(w: Int32Array, i: number): number {
  return (w[i] as number) | (w[i + 1] as number) | (w[i + 2] as number) | (w[i + 3] as number)
}

/** Whether four words of `a` and `b` from `i` on differ; 0: they do not. */
function xor4(a: Int32Array, b: Int32Array, i: number): number {
  return (
    ((a[i] as number) ^ (b[i] as number)) |
    ((a[i + 1] as number) ^ (b[i + 1] as number)) |
    ((a[i + 2] as number) ^ (b[i + 2] as number)) |
    ((a[i + 3] as number) ^ (b[i + 3] as number))
  )
}

/**
 * Finds runs of zero and other sectors in one buffer, whose contents may change between calls. The
 * results of {@link next} are left in fields, so that looking costs no allocation.
 */
export class SectorScanner {
  readonly #words: Int32Array
  /** Whether the run found last holds data. */
  isData = false
  /** Sectors of the run found last. */
  sectors = 0

  constructor(buffer: Uint8Array) {
    this.#words = wordsOf(buffer)
  }

  /** Whether sector `index` of the buffer is zero. */
  isZero(index: number): boolean {
    const start = index * sectorWords
    // Data betrays itself in its first words most of the time.
    return or4(this.#words, start) === 0 && this.#zeroSectors(start, sectorWords)
  }

  /** Whether the first `sectors` of the buffer are all zero. */
  allZero(sectors: number): boolean {
    return this.#zeroSectors(0, sectors * sectorWords)
  }

  #zeroSectors(start: number, words: number): boolean {
    const w = this.#words
    for (let i = start; i < start + words; i += 16) {
      if ((or4(w, i) | or4(w, i + 4) | or4(w, i + 8) | or4(w, i + 12)) !== 0) {
        return false
      }
    }
    return true
  }

  /**
   * Finds the run that starts at sector `first` of the buffer and ends within `count` sectors.
   *
   * Fewer than `min` zero sectors between data count as data. Runs end at multiples of `alignment`
   * (a power of two) as seen from sector `place` of the image, where `first` is: data is extended up
   * to one, zeroes are cut back, so that writes need no read first.
   */
  next(first: number, count: number, place: number, min: number, alignment: number): void {
    if (this.#isDataThroughout(first, count, min)) {
      this.isData = true
      this.sectors = count
      return
    }
    this.#run(first, count, place, alignment)
    if (!this.isData) {
      return
    }
    let used = this.sectors
    const enough = Math.min(min, count)
    for (let checked = used; checked < count; ) {
      this.#run(first + checked, count - checked, place + checked, alignment)
      checked += this.sectors
      if (this.isData) {
        used = checked
      } else if (this.sectors >= enough) {
        break
      }
    }
    this.isData = true
    this.sectors = used
  }

  /**
   * Whether no run of zeroes in a range can be long enough: data at both ends, and at every `min`th
   * sector between. Looks at few sectors; false means that it must be looked at closely.
   */
  #isDataThroughout(first: number, count: number, min: number): boolean {
    const w = this.#words
    const last = first + count - 1
    const stride = Math.max(1, min)
    for (let at = first; at < last; at += stride) {
      if (or4(w, at * sectorWords) === 0) {
        return false
      }
    }
    return or4(w, last * sectorWords) !== 0
  }

  #run(first: number, count: number, place: number, alignment: number): void {
    let zero = this.isZero(first)
    let length = 1
    while (length < count && this.isZero(first + length) === zero) {
      length++
    }
    const tail = (place + length) % alignment
    if (length < count && tail !== 0) {
      if (zero && length <= tail) {
        // No whole block of zeroes: it belongs to the data that follows.
        zero = false
      }
      length += zero ? -tail : alignment - tail
    }
    this.isData = !zero
    this.sectors = Math.min(length, count)
  }
}

/** Compares two buffers that may change between calls; both start at multiples of 4 bytes. */
export class SectorComparer {
  readonly #a: Int32Array
  readonly #b: Int32Array

  constructor(a: Uint8Array, b: Uint8Array) {
    this.#a = wordsOf(a)
    this.#b = wordsOf(b)
  }

  /** Index of the first of `sectors` that differs; `sectors` if none does. */
  firstDifference(sectors: number): number {
    const a = this.#a
    const b = this.#b
    for (let i = 0; i < sectors * sectorWords; i += 16) {
      if ((xor4(a, b, i) | xor4(a, b, i + 4) | xor4(a, b, i + 8) | xor4(a, b, i + 12)) !== 0) {
        return Math.floor(i / sectorWords)
      }
    }
    return sectors
  }
}
