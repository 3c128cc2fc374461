import { ioError } from '../../../errors/index.js'
import type { CachedTable } from '../../../formatkit/index.js'
import { hex } from './check-walk.js'
import { maxRefcountTableBytes, tableEntryBytes } from './constants.js'
import type { Qcow2Metadata } from './metadata.js'
import { RefcountFormat } from './refcount-block.js'
import { refcountMetadata } from './refcount-size.js'

/** Byte offset of the fields "refcount table offset" and "refcount table clusters" in the header. */
const headerTableField = 48

/**
 * The reference counts of an image's host clusters: the table of refcount blocks in memory, the
 * blocks behind a cache.
 *
 * Methods that change counts are called in a synchronous block while the metadata lock is free, or
 * with it held; `async` ones always with it held.
 */
export class Refcounts {
  readonly format: RefcountFormat
  readonly #meta: Qcow2Metadata
  /** File offsets of the blocks; 0 where there is none. */
  #table: Float64Array = new Float64Array(0)

  constructor(meta: Qcow2Metadata) {
    this.#meta = meta
    this.format = new RefcountFormat(meta.geometry.refcountOrder)
  }

  /** Takes over the refcount table as it stands in the image. */
  setTable(bytes: Uint8Array): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const table = new Float64Array(bytes.byteLength / tableEntryBytes)
    for (let i = 0; i < table.length; i++) {
      const low = view.getUint32(i * tableEntryBytes + 4)
      table[i] = view.getUint32(i * tableEntryBytes) * 0x100000000 + (low - (low % 512))
    }
    this.#table = table
  }

  /** Entries of the table. */
  get tableSize(): number {
    return this.#table.length
  }

  /** Offset in table entry `index` as it stands, aligned or not; 0 for none. */
  entry(index: number): number {
    return this.#table[index] ?? 0
  }

  /** Clusters that the table can have refcounts for. */
  get clusters(): number {
    return this.#table.length * this.#meta.geometry.blockEntries
  }

  /** How many clusters in `[start, end)`, which lies within one block, have a refcount. */
  async countUsed(start: number, end: number): Promise<number> {
    const { blockEntries } = this.#meta.geometry
    const offset = this.blockOffset(this.#tableIndex(start))
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
    const offset = index < this.#table.length ? (this.#table[index] ?? 0) : 0
    if (offset % this.#meta.geometry.clusterSize !== 0) {
      throw this.#meta.corruption.signal(
        `Refblock offset ${hex(offset)} unaligned (reftable index: ${hex(index)})`,
      )
    }
    return offset
  }

  #tableIndex(cluster: number): number {
    return Math.floor(cluster / this.#meta.geometry.blockEntries)
  }

  hasBlock(cluster: number): boolean {
    return this.blockOffset(this.#tableIndex(cluster)) !== 0
  }

  /** The refcount of `cluster`, or -1 if its block is not at hand. */
  peek(cluster: number): number {
    const offset = this.blockOffset(this.#tableIndex(cluster))
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
    const offset = this.blockOffset(this.#tableIndex(cluster))
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
    blocks.release(await blocks.load(this.blockOffset(this.#tableIndex(cluster))))
  }

  /** Whether `cluster` can take one more reference. */
  async canIncrease(cluster: number): Promise<boolean> {
    const offset = this.blockOffset(this.#tableIndex(cluster))
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
      const offset = this.blockOffset(this.#tableIndex(at))
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
      const block = blocks.get(this.blockOffset(this.#tableIndex(at)))
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
    let at = first
    try {
      while (at < end) {
        const offset = this.blockOffset(this.#tableIndex(at))
        if (offset === 0) {
          await this.#allocateBlock(at)
          await this.#undoIncrease(first, at)
          // Most likely the same clusters are still free.
          this.#meta.allocator.searchFrom(first)
          return false
        }
        this.#meta.overlap?.checkTable(offset)
        const stop = Math.min(end, at - (at % blockEntries) + blockEntries)
        const block = await blocks.load(offset)
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

  async #undoIncrease(first: number, end: number): Promise<void> {
    try {
      await this.decrease(first, end - first, (start) => this.#meta.allocator.searchFrom(start))
    } catch {
      // The clusters stay counted without a reference: a leak.
    }
  }

  /**
   * Takes a reference from each cluster; `onFree` gets the runs that have none left. Clusters whose
   * count cannot be changed are left out, and the first reason is thrown at the end.
   */
  async decrease(first: number, count: number, onFree: (start: number, end: number) => void): Promise<void> {
    const { blockEntries } = this.#meta.geometry
    const end = first + count
    let failure: unknown
    for (let at = first; at < end; ) {
      const stop = Math.min(end, at - (at % blockEntries) + blockEntries)
      try {
        await this.#decreaseInBlock(at, stop, onFree)
      } catch (error) {
        failure ??= error
      }
      at = stop
    }
    if (failure !== undefined) {
      throw failure
    }
  }

  async #decreaseInBlock(
    first: number,
    end: number,
    onFree: (start: number, end: number) => void,
  ): Promise<void> {
    const { blockEntries } = this.#meta.geometry
    const { blocks } = this.#meta
    const offset = this.blockOffset(this.#tableIndex(first))
    if (offset === 0) {
      throw ioError('EINVAL')
    }
    this.#meta.overlap?.checkTable(offset)
    const block = await blocks.load(offset)
    let valid = true
    try {
      let runStart = first
      for (let at = first; at < end; at++) {
        const index = at % blockEntries
        const counted = this.format.canAdd(block, index, -1)
        valid &&= counted
        if (counted) {
          this.format.add(block, index, -1)
        }
        if (!counted || this.format.get(block, index) !== 0) {
          if (runStart < at) {
            onFree(runStart, at)
          }
          runStart = at + 1
        }
      }
      if (runStart < end) {
        onFree(runStart, end)
      }
      blocks.markDirty(block)
    } finally {
      blocks.release(block)
    }
    if (!valid) {
      throw ioError('EINVAL')
    }
  }

  /**
   * Makes a refcount block for `cluster`. The place of the block is found like that of any cluster;
   * it counts itself if it can, else an existing block counts it.
   */
  async #allocateBlock(cluster: number): Promise<void> {
    const meta = this.#meta
    const { blockEntries, clusterSize } = meta.geometry
    const tableIndex = this.#tableIndex(cluster)
    // The refcount table is about to be written, so what L2 tables say must be durable.
    await meta.flushL2()
    const place = await meta.allocator.findFree(1)
    if (place === 0) {
      throw meta.corruption.signal('Preventing invalid allocation of refcount block at offset 0')
    }
    const offset = place * clusterSize
    meta.overlap?.check(offset, clusterSize)
    const countsItself = this.#tableIndex(place) === tableIndex
    if (!countsItself) {
      // At most two levels deep: then a block counts itself.
      if (!(await this.increase(place, 1))) {
        return
      }
      await meta.flushBlocks()
    }
    const block = await meta.blocks.create(offset)
    try {
      if (countsItself) {
        this.format.add(block, place % blockEntries, 1)
      }
      await meta.flushBlocks()
      if (tableIndex < this.#table.length) {
        await this.#hookUp(tableIndex, offset)
      }
    } catch (error) {
      meta.blocks.discard(offset)
      throw error
    } finally {
      meta.blocks.release(block)
    }
    if (tableIndex >= this.#table.length) {
      try {
        const used = Math.ceil(Math.max(cluster + 1, place) / blockEntries)
        await this.growTable(used * blockEntries * clusterSize, 0, false, tableIndex, offset)
      } catch (error) {
        meta.blocks.discard(offset)
        meta.allocator.ban(place, 1)
        throw error
      }
    }
  }

  /** Enters a block into the table. If that fails the table on disk may name it all the same, so its place is not used again. */
  async #hookUp(index: number, offset: number): Promise<void> {
    const meta = this.#meta
    const entry = new Uint8Array(tableEntryBytes)
    const view = new DataView(entry.buffer)
    view.setUint32(0, Math.floor(offset / 0x100000000))
    view.setUint32(4, offset % 0x100000000)
    try {
      await meta.writeThrough(meta.header.refcountTableOffset + index * tableEntryBytes, entry)
    } catch (error) {
      meta.allocator.ban(offset / meta.geometry.clusterSize, 1)
      throw error
    }
    this.#table[index] = offset
    meta.overlap?.setBlock(offset, true)
  }

  /**
   * Moves the refcount table to a larger one at `start`, behind new blocks that count the new
   * structures and `extra` clusters that the caller is going to allocate behind them. Nothing at or
   * after `start` (a cluster boundary) may be in use. The switch is one header write.
   *
   * @param extra clusters
   * @param exact no room for further growth
   * @param newBlockIndex table index that shall name the block at `newBlockOffset`, if that is not 0
   * @returns end of the new structures, bytes
   */
  async growTable(
    start: number,
    extra: number,
    exact: boolean,
    newBlockIndex: number,
    newBlockOffset: number,
  ): Promise<number> {
    const meta = this.#meta
    const { clusterSize, blockEntries } = meta.geometry
    const entriesPerCluster = clusterSize / tableEntryBytes
    const { blocks: total } = refcountMetadata(
      start / clusterSize + extra,
      entriesPerCluster,
      blockEntries,
      !exact,
    )
    const wanted = exact ? total : total + Math.ceil(total / 2)
    const tableClusters = Math.ceil(wanted / entriesPerCluster)
    if (tableClusters * clusterSize > maxRefcountTableBytes) {
      throw ioError('EFBIG')
    }
    const table = new Float64Array(tableClusters * entriesPerCluster)
    table.set(this.#table.subarray(0, table.length))
    if (newBlockOffset !== 0) {
      table[newBlockIndex] = newBlockOffset
    }
    const firstBlock = Math.floor(start / clusterSize / blockEntries)
    let missing = 0
    for (let i = firstBlock; i < total; i++) {
      missing += table[i] === 0 ? 1 : 0
    }
    const tableOffset = start + missing * clusterSize
    const end = tableOffset + tableClusters * clusterSize
    const created: number[] = []
    meta.allocator.taken(start / clusterSize, (end - start) / clusterSize)
    try {
      await this.#fillBlocks(table, firstBlock, total, start, end, created)
      await meta.flushBlocks()
      await meta.writeThrough(tableOffset, tableBytes(table))
      await this.#switchTable(table, tableOffset, tableClusters)
    } catch (error) {
      // The header on disk may name the new table all the same: it must not be overwritten.
      meta.allocator.ban(start / clusterSize, (end - start) / clusterSize)
      for (const offset of created) {
        meta.blocks.discard(offset)
      }
      throw error
    }
    return end
  }

  /** Counts the clusters from `start` to `end`, in new blocks placed from `start` on where blocks are missing. */
  async #fillBlocks(
    table: Float64Array,
    firstBlock: number,
    total: number,
    start: number,
    end: number,
    created: number[],
  ): Promise<void> {
    const { blocks, geometry } = this.#meta
    const { clusterSize, blockEntries } = geometry
    let place = start
    for (let i = firstBlock; i < total; i++) {
      let block: CachedTable
      const offset = table[i] ?? 0
      if (offset === 0) {
        block = await blocks.create(place)
        created.push(place)
        table[i] = place
        place += clusterSize
      } else {
        block = await blocks.load(offset)
      }
      try {
        const from = Math.max(start / clusterSize, i * blockEntries)
        const to = Math.min(end / clusterSize, (i + 1) * blockEntries)
        for (let cluster = from; cluster < to; cluster++) {
          this.format.add(block, cluster % blockEntries, 1)
        }
        if (from < to) {
          blocks.markDirty(block)
        }
      } finally {
        blocks.release(block)
      }
    }
  }

  async #switchTable(table: Float64Array, offset: number, clusters: number): Promise<void> {
    const { header, geometry } = this.#meta
    const field = new Uint8Array(12)
    const view = new DataView(field.buffer)
    view.setUint32(0, Math.floor(offset / 0x100000000))
    view.setUint32(4, offset % 0x100000000)
    view.setUint32(8, clusters)
    await this.#meta.writeThrough(headerTableField, field)
    const oldOffset = header.refcountTableOffset
    const oldBytes = header.refcountTableClusters * geometry.clusterSize
    this.#table = table
    for (const block of table) {
      if (block !== 0) {
        this.#meta.overlap?.setBlock(block, true)
      }
    }
    header.refcountTableOffset = offset
    header.refcountTableClusters = clusters
    await this.#meta.allocator.free(oldOffset, oldBytes, 'other', false)
  }

  /**
   * Drops refcount blocks that count nothing (but perhaps themselves) from the table, after an image
   * has become smaller.
   */
  async shrinkTable(): Promise<void> {
    const meta = this.#meta
    const { blockEntries, clusterSize } = meta.geometry
    const unused: number[] = []
    for (let i = 0; i < this.#table.length; i++) {
      const offset = this.blockOffset(i)
      if (offset === 0) {
        continue
      }
      const block = await meta.blocks.load(offset)
      const own = offset / clusterSize
      const ownIndex = this.#tableIndex(own) === i ? own % blockEntries : -1
      let at = this.#nextUsed(block, 0)
      if (at === ownIndex) {
        at = this.#nextUsed(block, at + 1)
      }
      meta.blocks.release(block)
      if (at === blockEntries) {
        unused.push(i)
      }
    }
    if (unused.length === 0) {
      return
    }
    const table = this.#table.slice()
    for (const i of unused) {
      table[i] = 0
    }
    try {
      await meta.writeThrough(meta.header.refcountTableOffset, tableBytes(table))
    } catch (error) {
      for (const i of unused) {
        meta.allocator.ban((this.#table[i] ?? 0) / clusterSize, 1)
      }
      throw error
    }
    const old = this.#table
    this.#table = table
    for (const i of unused) {
      const offset = old[i] ?? 0
      meta.blocks.discardRange(offset, clusterSize)
      meta.overlap?.setBlock(offset, false)
      if (this.#tableIndex(offset / clusterSize) === i) {
        // It counted itself and is gone with its count.
        meta.allocator.freed(offset / clusterSize, 1, 'always', false)
      } else {
        await meta.allocator.free(offset, clusterSize, 'always', false)
      }
    }
  }

  /** The last cluster with a refcount, which may lie past the end of the file; -1 if there is none. */
  async lastUsed(): Promise<number> {
    const { blocks, geometry } = this.#meta
    for (let index = this.#table.length - 1; index >= 0; index--) {
      const offset = this.blockOffset(index)
      if (offset === 0) {
        continue
      }
      const block = await blocks.load(offset)
      blocks.release(block)
      for (let at = geometry.blockEntries - 1; at >= 0; at--) {
        if (this.format.get(block, at) !== 0) {
          return index * geometry.blockEntries + at
        }
      }
    }
    return -1
  }

  #nextUsed(block: CachedTable, from: number): number {
    const { blockEntries } = this.#meta.geometry
    let at = from
    while (at < blockEntries && this.format.get(block, at) === 0) {
      at++
    }
    return at
  }
}

function tableBytes(table: Float64Array): Uint8Array {
  const bytes = new Uint8Array(table.length * tableEntryBytes)
  const view = new DataView(bytes.buffer)
  table.forEach((offset, i) => {
    view.setUint32(i * tableEntryBytes, Math.floor(offset / 0x100000000))
    view.setUint32(i * tableEntryBytes + 4, offset % 0x100000000)
  })
  return bytes
}
