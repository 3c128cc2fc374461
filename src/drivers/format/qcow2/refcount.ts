import { ioError } from '../../../errors/index.js'
import type { CachedTable } from '../../../formatkit/index.js'
import { hex } from './check-walk.js'
import { tableEntryBytes } from './constants.js'
import type { Qcow2Metadata } from './metadata.js'
import { RefcountFormat } from './refcount-block.js'
import { RefcountGrowth } from './refcount-growth.js'

/**
 * The reference counts of an image's host clusters: the table of refcount blocks in memory, the
 * blocks behind a cache.
 *
 * Methods that change counts are called in a synchronous block while the metadata lock is free, or
 * with it held; `async` ones always with it held.
 */
export class Refcounts {
  format: RefcountFormat
  readonly #meta: Qcow2Metadata
  /** @internal File offsets of the blocks; 0 where there is none. */
  table: Float64Array = new Float64Array(0)
  readonly growth: RefcountGrowth

  constructor(meta: Qcow2Metadata) {
    this.#meta = meta
    this.format = new RefcountFormat(meta.geometry.refcountOrder)
    this.growth = new RefcountGrowth(meta, this)
  }

  /** The width of refcounts has changed. */
  refreshFormat(): void {
    this.format = new RefcountFormat(this.#meta.geometry.refcountOrder)
  }

  /** Takes over the refcount table as it stands in the image. */
  setTable(bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const table = new Float64Array(bytes.byteLength / tableEntryBytes)
    for (let i = 0; i < table.length; i++) {
      const low = view.getUint32(i * tableEntryBytes + 4)
      table[i] = view.getUint32(i * tableEntryBytes) * 0x100000000 + (low - (low % 512))
    }
    this.table = table
  }

  /** Entries of the table. */
  get tableSize(): number {
    return this.table.length
  }

  /** Offset in table entry `index` as it stands, aligned or not; 0 for none. */
  entry(index: number): number {
    return this.table[index] ?? 0
  }

  /** Clusters that the table can have refcounts for. */
  get clusters(): number {
    return this.table.length * this.#meta.geometry.blockEntries
  }

  /** How many clusters in `[start, end)`, which lies within one block, have a refcount. */
  async countUsed(start: number, end: number): Promise<number> {
    const { blockEntries } = this.#meta.geometry
    const offset = this.blockOffset(this.tableIndex(start))
    if (offset === 0) {
      return 0
    }
    const block = await this.#meta.blocks.load(offset)
    this.#meta.blocks.release(block)
    let used = 0
    for (let cluster = start; cluster < end; cluster++) {
      used += this.format.get(block, cluster % blockEntries) === 0 ? 0 : 1
    }
    return used
  }

  /** File offset of block `index`, 0 if there is none. Throws if the image has it unaligned. */
  blockOffset(index: number): number {
    const offset = index < this.table.length ? (this.table[index] ?? 0) : 0
    if (offset % this.#meta.geometry.clusterSize !== 0) {
      throw this.#meta.corruption.signal(
        `Refblock offset ${hex(offset)} unaligned (reftable index: ${hex(index)})`,
      )
    }
    return offset
  }

  /** Index in the table of the block that counts `cluster`. */
  tableIndex(cluster: number): number {
    return Math.floor(cluster / this.#meta.geometry.blockEntries)
  }

  hasBlock(cluster: number): boolean {
    return this.blockOffset(this.tableIndex(cluster)) !== 0
  }

  /** The refcount of `cluster`, or -1 if its block is not at hand. */
  peek(cluster: number): number {
    const offset = this.blockOffset(this.tableIndex(cluster))
    if (offset === 0) {
      return 0
    }
    const block = this.#meta.blocks.reach(offset)
    return block === undefined ? -1 : this.format.get(block, cluster % this.#meta.geometry.blockEntries)
  }

  /**
   * The first cluster from `cluster` on with refcount 0 in the same block, or the end of the block;
   * -1 if the block is not at hand.
   */
  nextFree(cluster: number): number {
    const offset = this.blockOffset(this.tableIndex(cluster))
    if (offset === 0) {
      return cluster
    }
    const block = this.#meta.blocks.reach(offset)
    if (block === undefined) {
      return -1
    }
    const entries = this.#meta.geometry.blockEntries
    const inBlock = cluster % entries
    return cluster - inBlock + this.format.findFree(block, inBlock, entries)
  }

  /** The refcount of `cluster`; exact up to 2^53. */
  async get(cluster: number): Promise<number> {
    for (;;) {
      const refcount = this.peek(cluster)
      if (refcount >= 0) {
        return refcount
      }
      await this.bring(cluster)
    }
  }

  /** Brings the block of `cluster`, which exists, into the cache. */
  async bring(cluster: number): Promise<void> {
    const blocks = this.#meta.blocks
    blocks.release(await blocks.load(this.blockOffset(this.tableIndex(cluster))))
  }

  /** Whether `cluster` can take one more reference. */
  async canIncrease(cluster: number): Promise<boolean> {
    const offset = this.blockOffset(this.tableIndex(cluster))
    if (offset === 0) {
      return true
    }
    const block = await this.#meta.blocks.load(offset)
    this.#meta.blocks.release(block)
    return this.format.canAdd(block, cluster % this.#meta.geometry.blockEntries, 1)
  }

  /** Adds a reference to each cluster if all their blocks are at hand and allow it; otherwise changes nothing. */
  tryIncrease(first: number, count: number): boolean {
    const { blockEntries } = this.#meta.geometry
    const { blocks } = this.#meta
    const end = first + count
    for (let at = first; at < end; ) {
      const offset = this.blockOffset(this.tableIndex(at))
      const block = offset === 0 ? undefined : blocks.get(offset)
      if (block === undefined) {
        return false
      }
      this.#meta.overlap?.checkTable(offset)
      const stop = Math.min(end, at - (at % blockEntries) + blockEntries)
      for (; at < stop; at++) {
        if (!this.format.canAdd(block, at % blockEntries, 1)) {
          return false
        }
      }
    }
    for (let at = first; at < end; ) {
      const block = blocks.get(this.blockOffset(this.tableIndex(at)))
      if (block === undefined) {
        throw new Error('refcount block left the cache')
      }
      const stop = Math.min(end, at - (at % blockEntries) + blockEntries)
      for (; at < stop; at++) {
        this.format.add(block, at % blockEntries, 1)
      }
      blocks.markDirty(block)
    }
    return true
  }

  /**
   * Adds a reference to each cluster. False: a refcount block had to be allocated first, which may
   * have taken the very clusters; nothing is counted and the caller searches again.
   *
   * @throws EINVAL if a refcount would overflow; nothing is counted then, nor on other errors
   */
  async increase(first: number, count: number): Promise<boolean> {
    const { blockEntries } = this.#meta.geometry
    const { blocks } = this.#meta
    const end = first + count
    if (count > 1 && this.#meta.allocator.searchStart >= end && !(await this.#makeBlocks(first, end))) {
      this.#meta.allocator.searchFrom(first)
      return false
    }
    let at = first
    try {
      while (at < end) {
        const offset = this.blockOffset(this.tableIndex(at))
        if (offset === 0) {
          await this.growth.allocateBlock(at)
          await this.#undoIncrease(first, at)
          // Most likely the same clusters are still free.
          this.#meta.allocator.searchFrom(first)
          return false
        }
        this.#meta.overlap?.checkTable(offset)
        const stop = Math.min(end, at - (at % blockEntries) + blockEntries)
        const block = await this.#touch(offset)
        try {
          for (let cluster = at; cluster < stop; cluster++) {
            if (!this.format.canAdd(block, cluster % blockEntries, 1)) {
              throw ioError('EINVAL')
            }
          }
          for (; at < stop; at++) {
            this.format.add(block, at % blockEntries, 1)
          }
          blocks.markDirty(block)
        } finally {
          blocks.release(block)
        }
      }
    } catch (error) {
      await this.#undoIncrease(first, at)
      throw error
    }
    return true
  }

  /**
   * Makes the blocks that are missing for `[first, end)`, none of them inside it: the search for their
   * places begins behind it. Counting first and taking it back for each block would take a time that
   * grows with the square of a long run.
   *
   * @returns whether the clusters are still free
   */
  async #makeBlocks(first: number, end: number): Promise<boolean> {
    const { blockEntries } = this.#meta.geometry
    const { allocator } = this.#meta
    const { table } = this
    for (let at = first; at < end; at += blockEntries - (at % blockEntries)) {
      // One that needed a block to be counted in is made at the second try.
      while (this.blockOffset(this.tableIndex(at)) === 0) {
        await this.growth.allocateBlock(at)
        // A larger table may stand where the clusters were.
        if (this.table !== table || allocator.searchStart < end) {
          return false
        }
        allocator.searchFrom(end)
      }
    }
    return true
  }

  /** Brings a block that is about to change into the cache; these are events even if it is there. */
  async #touch(offset: number): Promise<CachedTable> {
    if (this.#meta.file.debug !== undefined) {
      await this.#meta.event('refblock_alloc')
      await this.#meta.event('refblock_load')
    }
    return await this.#meta.blocks.load(offset)
  }

  async #undoIncrease(first: number, end: number): Promise<void> {
    try {
      await this.decrease(first, end - first, (start) => this.#meta.allocator.searchFrom(start))
    } catch {
      // The clusters stay counted without a reference: a leak.
    }
  }

  /**
   * Takes a reference from each cluster; `onFree` gets the runs that have none left.
   *
   * @throws EINVAL if one of them has none to take; nothing is changed then, nor on other errors
   */
  async decrease(first: number, count: number, onFree: (start: number, end: number) => void): Promise<void> {
    const { blockEntries } = this.#meta.geometry
    const end = first + count
    const freed: [number, number][] = []
    for (let at = first; at < end; ) {
      const stop = Math.min(end, at - (at % blockEntries) + blockEntries)
      try {
        await this.#decreaseInBlock(at, stop, freed)
      } catch (error) {
        if (at !== first) {
          await this.increase(first, at - first)
        }
        throw error
      }
      at = stop
    }
    for (const [start, stop] of freed) {
      onFree(start, stop)
    }
  }

  async #decreaseInBlock(first: number, end: number, freed: [number, number][]): Promise<void> {
    const { blockEntries } = this.#meta.geometry
    const { blocks } = this.#meta
    const offset = this.blockOffset(this.tableIndex(first))
    if (offset === 0) {
      throw ioError('EINVAL')
    }
    this.#meta.overlap?.checkTable(offset)
    const block = await this.#touch(offset)
    try {
      for (let at = first; at < end; at++) {
        if (!this.format.canAdd(block, at % blockEntries, -1)) {
          throw ioError('EINVAL')
        }
      }
      for (let at = first; at < end; at++) {
        this.format.add(block, at % blockEntries, -1)
        if (this.format.get(block, at % blockEntries) === 0) {
          const run = freed.at(-1)
          if (run !== undefined && run[1] === at) {
            run[1]++
          } else {
            freed.push([at, at + 1])
          }
        }
      }
      blocks.markDirty(block)
    } finally {
      blocks.release(block)
    }
  }
}
