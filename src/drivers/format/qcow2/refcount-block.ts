import type { CachedTable } from '../../../formatkit/index.js'

/** Reads and changes the entries of refcount blocks; refcounts are 1 to 64 bits wide. */
export class RefcountFormat {
  readonly #order: number
  /** Largest refcount; a double, so 2^64 for 64 bits. */
  readonly max: number

  /** @param order log2 of the width in bits, 0 to 6 */
  constructor(order: number) {
    this.#order = order
    this.max = order === 6 ? 2 ** 64 : 2 ** (2 ** order) - 1
  }

  /** The refcount at `index`; exact up to 2^53. */
  get(block: CachedTable, index: number): number {
    switch (this.#order) {
      case 4:
        return block.view.getUint16(index * 2)
      case 3:
        return block.view.getUint8(index)
      case 5:
        return block.view.getUint32(index * 4)
      case 6:
        return block.view.getUint32(index * 8) * 0x100000000 + block.view.getUint32(index * 8 + 4)
      default: {
        const bits = 1 << this.#order
        const perByte = 8 >> this.#order
        const byte = block.view.getUint8(Math.floor(index / perByte))
        return (byte >> ((index % perByte) * bits)) & ((1 << bits) - 1)
      }
    }
  }

  /** Whether {@link add} of `delta` stays between 0 and the maximum. */
  canAdd(block: CachedTable, index: number, delta: 1 | -1): boolean {
    if (delta < 0) {
      return this.get(block, index) !== 0
    }
    if (this.#order === 6) {
      return (
        block.view.getUint32(index * 8) !== 0xffffffff || block.view.getUint32(index * 8 + 4) !== 0xffffffff
      )
    }
    return this.get(block, index) !== this.max
  }

  /** Adds 1 or -1, which {@link canAdd} must allow. The caller marks the block dirty. */
  add(block: CachedTable, index: number, delta: 1 | -1): void {
    const view = block.view
    switch (this.#order) {
      case 4:
        view.setUint16(index * 2, view.getUint16(index * 2) + delta)
        break
      case 3:
        view.setUint8(index, view.getUint8(index) + delta)
        break
      case 5:
        view.setUint32(index * 4, view.getUint32(index * 4) + delta)
        break
      case 6: {
        const low = view.getUint32(index * 8 + 4) + delta
        view.setUint32(index * 8 + 4, low)
        if (low < 0 || low > 0xffffffff) {
          view.setUint32(index * 8, view.getUint32(index * 8) + delta)
        }
        break
      }
      default: {
        const bits = 1 << this.#order
        const perByte = 8 >> this.#order
        const at = Math.floor(index / perByte)
        const shift = (index % perByte) * bits
        const mask = (1 << bits) - 1
        const value = ((view.getUint8(at) >> shift) & mask) + delta
        view.setUint8(at, (view.getUint8(at) & ~(mask << shift)) | (value << shift))
      }
    }
  }

  /** First index in `[from, to)` whose refcount is 0, or `to`. */
  findFree(block: CachedTable, from: number, to: number): number {
    let index = from
    if (this.#order === 4) {
      const view = block.view
      while (index < to && view.getUint16(index * 2) !== 0) {
        index++
      }
      return index
    }
    while (index < to && this.get(block, index) !== 0) {
      index++
    }
    return index
  }
}
