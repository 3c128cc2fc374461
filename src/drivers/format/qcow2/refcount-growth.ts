import { ioError } from '../../../errors/index.js'
import type { CachedTable } from '../../../formatkit/index.js'
import { maxRefcountTableBytes, tableEntryBytes } from './constants.js'
import type { Qcow2Metadata } from './metadata.js'
import type { Refcounts } from './refcount.js'
import { refcountMetadata } from './refcount-size.js'

/** Byte offset of the fields "refcount table offset" and "refcount table clusters" in the header. */
const headerTableField = 48

/**
 * Gives refcounts room: makes refcount blocks, which count their own cluster, and moves the table
 * when it is full. Called with the metadata lock held.
 */
export class RefcountGrowth {
  readonly #meta: Qcow2Metadata
  readonly #refcounts: Refcounts

  constructor(meta: Qcow2Metadata, refcounts: Refcounts) {
    this.#meta = meta
    this.#refcounts = refcounts
  }

  /**
   * Makes a refcount block for `cluster`. The place of the block is found like that of any cluster;
   * it counts itself if it can, else an existing block counts it.
   */
  async allocateBlock(cluster: number): Promise<void> {
    const meta = this.#meta
    const { blockEntries, clusterSize } = meta.geometry
    const tableIndex = this.#refcounts.tableIndex(cluster)
    await meta.event('refblock_alloc')
    // The refcount table is about to be written, so what L2 tables say must be durable.
    await meta.flushL2()
    const place = await meta.allocator.findFree(1)
    if (place === 0) {
      throw meta.corruption.signal('Preventing invalid allocation of refcount block at offset 0')
    }
    const offset = place * clusterSize
    meta.overlap?.check(offset, clusterSize)
    const countsItself = this.#refcounts.tableIndex(place) === tableIndex
    if (!countsItself) {
      // At most two levels deep: then a block counts itself.
      if (!(await this.#refcounts.increase(place, 1))) {
        return
      }
      await meta.flushBlocks()
    }
    const block = await meta.blocks.create(offset)
    try {
      if (countsItself) {
        this.#refcounts.format.add(block, place % blockEntries, 1)
      }
      await meta.event('refblock_alloc_write')
      await meta.flushBlocks()
      if (tableIndex < this.#refcounts.table.length) {
        await this.#hookUp(tableIndex, offset)
      }
    } catch (error) {
      meta.blocks.discard(offset)
      throw error
    } finally {
      meta.blocks.release(block)
    }
    if (tableIndex >= this.#refcounts.table.length) {
      try {
        await meta.event('reftable_grow')
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
      await meta.event('refblock_alloc_hookup')
      await meta.writeThrough(meta.header.refcountTableOffset + index * tableEntryBytes, entry)
    } catch (error) {
      meta.allocator.ban(offset / meta.geometry.clusterSize, 1)
      throw error
    }
    this.#refcounts.table[index] = offset
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
    table.set(this.#refcounts.table.subarray(0, table.length))
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
      await meta.event('refblock_alloc_write_blocks')
      await meta.flushBlocks()
      await meta.event('refblock_alloc_write_table')
      await meta.writeThrough(tableOffset, tableBytes(table))
      await meta.event('refblock_alloc_switch_table')
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
          this.#refcounts.format.add(block, cluster % blockEntries, 1)
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
    this.#refcounts.table = table
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
    for (let i = 0; i < this.#refcounts.table.length; i++) {
      const offset = this.#refcounts.blockOffset(i)
      if (offset === 0) {
        continue
      }
      const block = await meta.blocks.load(offset)
      const own = offset / clusterSize
      const ownIndex = this.#refcounts.tableIndex(own) === i ? own % blockEntries : -1
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
    const table = this.#refcounts.table.slice()
    for (const i of unused) {
      table[i] = 0
    }
    try {
      await meta.writeThrough(meta.header.refcountTableOffset, tableBytes(table))
    } catch (error) {
      for (const i of unused) {
        meta.allocator.ban((this.#refcounts.table[i] ?? 0) / clusterSize, 1)
      }
      throw error
    }
    const old = this.#refcounts.table
    this.#refcounts.table = table
    for (const i of unused) {
      const offset = old[i] ?? 0
      meta.blocks.discardRange(offset, clusterSize)
      meta.overlap?.setBlock(offset, false)
      if (this.#refcounts.tableIndex(offset / clusterSize) === i) {
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
    for (let index = this.#refcounts.table.length - 1; index >= 0; index--) {
      const offset = this.#refcounts.blockOffset(index)
      if (offset === 0) {
        continue
      }
      const block = await blocks.load(offset)
      blocks.release(block)
      for (let at = geometry.blockEntries - 1; at >= 0; at--) {
        if (this.#refcounts.format.get(block, at) !== 0) {
          return index * geometry.blockEntries + at
        }
      }
    }
    return -1
  }

  #nextUsed(block: CachedTable, from: number): number {
    const { blockEntries } = this.#meta.geometry
    let at = from
    while (at < blockEntries && this.#refcounts.format.get(block, at) === 0) {
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
