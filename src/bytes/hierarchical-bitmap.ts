import { isPowerOfTwo } from './align.js'
import {
  clearBits,
  cloneTree,
  countBits,
  findBit,
  levelBits,
  mergeTrees,
  readWord,
  setBits,
  setHeight,
  type Tree,
  writeWord,
} from './bit-tree.js'

/** Bits that a serialised piece begins and ends on: 64, whatever the word size of the machine. */
const serialWordBits = 64

/** A run of equal bits, bytes. */
export interface BitmapArea {
  readonly offset: number
  readonly bytes: number
}

/**
 * One bit for every `granularity` bytes of `size` bytes. All offsets and lengths are bytes.
 *
 * A tree that holds only what is neither all clear nor all set: a change takes a number of steps that
 * grows with the logarithm of the size, and memory follows the number of different regions.
 *
 * Positions outside `[0, size)` are wrong calls and throw RangeError, apart from those of searches.
 */
export class HierarchicalBitmap {
  readonly granularity: number
  #size: number
  #bits: number
  #tree: Tree

  /** @param granularity a power of two; bytes */
  constructor(size: number, granularity: number) {
    if (!isPowerOfTwo(granularity)) {
      throw new RangeError(`granularity ${granularity} is not a power of two`)
    }
    checkSize(size)
    this.granularity = granularity
    this.#size = size
    this.#bits = Math.ceil(size / granularity)
    this.#tree = { root: undefined, height: heightFor(this.#bits) }
  }

  get size(): number {
    return this.#size
  }

  /** Bits in the bitmap. */
  get length(): number {
    return this.#bits
  }

  /** Bits that are set. */
  get setBits(): number {
    return countBits(this.#tree)
  }

  /** Bytes that set bits stand for; the last bit counts whole even if the size ends within it. */
  get count(): number {
    return this.setBits * this.granularity
  }

  get isEmpty(): boolean {
    return this.#tree.root === undefined
  }

  #check(offset: number, bytes: number): void {
    if (!(offset >= 0 && bytes >= 0 && offset + bytes <= this.#size)) {
      throw new RangeError(`range at ${offset}, +${bytes} is outside a bitmap over ${this.#size} bytes`)
    }
  }

  get(offset: number): boolean {
    this.#check(offset, 1)
    const bit = Math.floor(offset / this.granularity)
    return findBit(this.#tree, bit, bit + 1, true) === bit
  }

  /** Sets the bits of everything that `[offset, +bytes)` touches. */
  set(offset: number, bytes: number): void {
    this.#check(offset, bytes)
    if (bytes !== 0) {
      const last = Math.floor((offset + bytes - 1) / this.granularity)
      setBits(this.#tree, Math.floor(offset / this.granularity), last + 1)
    }
  }

  /** Clears bits. The range must begin on a bit and end on one, or at the end of the bitmap. */
  reset(offset: number, bytes: number): void {
    this.#check(offset, bytes)
    const end = offset + bytes
    if (offset % this.granularity !== 0 || (end % this.granularity !== 0 && end !== this.#size)) {
      throw new RangeError(`range at ${offset}, +${bytes} does not consist of whole bits`)
    }
    if (bytes !== 0) {
      clearBits(this.#tree, offset / this.granularity, Math.ceil(end / this.granularity))
    }
  }

  /** Clears all bits. */
  clear(): void {
    this.#tree.root = undefined
  }

  /** First dirty offset in `[offset, +bytes)`, or -1. */
  nextDirty(offset: number, bytes: number = Number.MAX_SAFE_INTEGER): number {
    return this.#next(offset, bytes, true)
  }

  /** First clean offset in `[offset, +bytes)`, or -1. */
  nextZero(offset: number, bytes: number = Number.MAX_SAFE_INTEGER): number {
    return this.#next(offset, bytes, false)
  }

  #next(offset: number, bytes: number, value: boolean): number {
    if (offset < 0 || bytes < 0) {
      throw new RangeError(`cannot search from ${offset} for ${bytes} bytes`)
    }
    if (offset >= this.#size || bytes === 0) {
      return -1
    }
    const end = Math.min(this.#size, offset + bytes)
    const bit = findBit(
      this.#tree,
      Math.floor(offset / this.granularity),
      Math.ceil(end / this.granularity),
      value,
    )
    return bit < 0 ? -1 : Math.max(offset, bit * this.granularity)
  }

  /** First run of dirty bytes in `[start, end)`, at most `maxBytes` long. */
  nextDirtyArea(
    start: number,
    end: number = this.#size,
    maxBytes: number = Number.MAX_SAFE_INTEGER,
  ): BitmapArea | undefined {
    const limit = Math.min(end, this.#size)
    const offset = start >= limit ? -1 : this.nextDirty(start, limit - start)
    if (offset < 0) {
      return undefined
    }
    const wanted = Math.min(limit - offset, maxBytes)
    const stop = this.nextZero(offset, wanted)
    return { offset, bytes: stop < 0 ? wanted : stop - offset }
  }

  /** Visits the dirty bits from `offset` on. The bitmap may change meanwhile. */
  iterate(offset = 0): BitmapIterator {
    return new BitmapIterator(this, offset)
  }

  /** Adds the dirty bytes of `source`, a bitmap over as many bytes; the granularities may differ. */
  merge(source: HierarchicalBitmap): void {
    if (source.#size !== this.#size) {
      throw new RangeError(`a bitmap over ${source.#size} bytes cannot join one over ${this.#size}`)
    }
    if (source.granularity === this.granularity) {
      mergeTrees(this.#tree, source.#tree)
      return
    }
    for (let at = 0; ; ) {
      const area = source.nextDirtyArea(at)
      if (area === undefined) {
        return
      }
      this.set(area.offset, area.bytes)
      at = area.offset + area.bytes
    }
  }

  /** An independent copy. */
  clone(): HierarchicalBitmap {
    const copy = new HierarchicalBitmap(this.#size, this.granularity)
    copy.#tree = cloneTree(this.#tree)
    return copy
  }

  /** Makes the bitmap stand for `size` bytes: new bits are clear, bits past the end are lost. */
  truncate(size: number): void {
    checkSize(size)
    const bits = Math.ceil(size / this.granularity)
    if (bits < this.#bits) {
      clearBits(this.#tree, bits, this.#bits)
    }
    setHeight(this.#tree, heightFor(bits))
    this.#size = size
    this.#bits = bits
  }

  /** Serialised pieces begin at multiples of this; bytes of the disk. */
  get serialAlignment(): number {
    return serialWordBits * this.granularity
  }

  /** Length of `[offset, +bytes)` when serialised; whole 64-bit words. */
  serializedLength(offset: number, bytes: number): number {
    if (bytes === 0) {
      return 0
    }
    const { first, end } = this.#words(offset, bytes)
    return (end - first) * 8
  }

  /** The 64-bit words that hold a range. */
  #words(offset: number, bytes: number): { first: number; end: number } {
    this.#check(offset, bytes)
    const end = offset + bytes
    const align = this.serialAlignment
    if (offset % align !== 0 || (end % align !== 0 && end !== this.#size)) {
      throw new RangeError(`range at ${offset}, +${bytes} cannot be serialised`)
    }
    return {
      first: offset / align,
      end: Math.ceil(Math.ceil(end / this.granularity) / serialWordBits),
    }
  }

  /**
   * Writes the bits of a range to `into`: byte k holds bits 8k to 8k+7 of the range, the lowest bit
   * first. What is left of the last word is zero.
   *
   * @returns bytes written
   */
  serialize(offset: number, bytes: number, into: Uint8Array, at = 0): number {
    const length = this.serializedLength(offset, bytes)
    const view = new DataView(into.buffer, into.byteOffset + at, length)
    const firstBit = offset / this.granularity
    for (let done = 0; done < length; done += 4) {
      view.setUint32(done, readWord(this.#tree, firstBit + done * 8), true)
    }
    return length
  }

  /** Takes the bits of a range from what {@link serialize} wrote; bits past the end are ignored. */
  deserialize(offset: number, bytes: number, from: Uint8Array, at = 0): void {
    const length = this.serializedLength(offset, bytes)
    const view = new DataView(from.buffer, from.byteOffset + at, length)
    const firstBit = offset / this.granularity
    for (let done = 0; done < length; done += 4) {
      const bit = firstBit + done * 8
      const left = this.#bits - bit
      if (left <= 0) {
        break
      }
      const word = view.getUint32(done, true)
      writeWord(this.#tree, bit, left < 32 ? word & (2 ** left - 1) : word)
    }
  }
}

function checkSize(size: number): void {
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new RangeError(`a bitmap cannot stand for ${size} bytes`)
  }
}

/** Levels above the leaves that `bits` bits need. */
function heightFor(bits: number): number {
  let height = 0
  while (levelBits(height) < bits) {
    height++
  }
  return height
}

/** Goes through the dirty bits of a bitmap in order. Bits that change ahead of it are seen as they are then. */
export class BitmapIterator {
  readonly #bitmap: Pick<HierarchicalBitmap, 'granularity' | 'nextDirty'>
  #at = 0

  constructor(bitmap: Pick<HierarchicalBitmap, 'granularity' | 'nextDirty'>, offset: number) {
    this.#bitmap = bitmap
    this.seek(offset)
  }

  /** Offset of the next dirty bit, or -1 at the end. */
  next(): number {
    const { granularity } = this.#bitmap
    const found = this.#bitmap.nextDirty(this.#at)
    if (found < 0) {
      return -1
    }
    this.#at = found + granularity
    return found
  }

  /** Goes on with the bit that `offset` lies in, or at the end if that is past it. */
  seek(offset: number): void {
    this.#at = offset - (offset % this.#bitmap.granularity)
  }
}
