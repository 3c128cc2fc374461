import { ioError } from '../../../errors/index.js'
import type { CachedTable } from '../../../formatkit/index.js'
import { hex } from './check-walk.js'
import { maxL1Bytes, tableEntryBytes } from './constants.js'
import type { Qcow2Metadata } from './metadata.js'

/** Byte offset of the fields "L1 size" and "L1 table offset" in the header. */
const headerL1Field = 36

/** Makes L2 tables writable: allocates missing ones, copies shared ones, grows the L1 table. */
export class L2Tables {
  readonly #meta: Qcow2Metadata

  constructor(meta: Qcow2Metadata) {
    this.#meta = meta
  }

  #l1Index(offset: number): number {
    return Math.floor(offset / this.#meta.geometry.l1Span)
  }

  /** Index in its L2 table of the cluster that holds guest `offset`. */
  l2Index(offset: number): number {
    const { l1Span, clusterSize } = this.#meta.geometry
    return Math.floor((offset % l1Span) / clusterSize)
  }

  /** Offset of the L2 table for L1 entry `index`, 0 if there is none. Throws EIO if the entry is corrupt. */
  #tableOffset(index: number): number {
    const { l1, geometry, corruption } = this.#meta
    const offset = index < l1.size ? l1.tableOffset(index) : 0
    if (offset % geometry.clusterSize !== 0) {
      throw corruption.signal(`L2 table offset ${hex(offset)} unaligned (L1 index: ${hex(index)})`)
    }
    return offset
  }

  /** Whether guest `offset` has an L2 table at all. */
  exists(offset: number): boolean {
    return this.#tableOffset(this.#l1Index(offset)) !== 0
  }

  /** Offset of the L2 table for guest `offset`, for messages. */
  tableOffset(offset: number): number {
    return this.#tableOffset(this.#l1Index(offset))
  }

  /** The slice for guest `offset` if it may be changed and is at hand. */
  writable(offset: number): CachedTable | undefined {
    const index = this.#l1Index(offset)
    const table = this.#tableOffset(index)
    if (table === 0 || !this.#meta.l1.isCopied(index)) {
      return undefined
    }
    this.#meta.overlap?.checkTable(table)
    return this.#meta.l2.reach(this.#meta.sliceOffset(table, this.l2Index(offset)))
  }

  /** The slice for guest `offset`, pinned, once it may be changed. Lock held. */
  async makeWritable(offset: number): Promise<CachedTable> {
    const { l1, l2 } = this.#meta
    const index = this.#l1Index(offset)
    if (index >= l1.size) {
      await this.growL1(index + 1, false)
    }
    let table = this.#tableOffset(index)
    if (table === 0 || !l1.isCopied(index)) {
      await this.#allocate(index, table)
      table = this.#tableOffset(index)
    }
    this.#meta.overlap?.checkTable(table)
    return await l2.load(this.#meta.sliceOffset(table, this.l2Index(offset)))
  }

  /**
   * Gives L1 entry `index` an L2 table of its own: empty, or a copy of `old`. Refcounts first, then
   * the table, then the pointer to it.
   */
  async #allocate(index: number, old: number): Promise<void> {
    const meta = this.#meta
    const { clusterSize } = meta.geometry
    const offset = await meta.allocator.allocate(1)
    if (offset === 0) {
      throw meta.corruption.signal('Preventing invalid allocation of L2 table at offset 0')
    }
    try {
      await meta.flushBlocks()
      if (old !== 0) {
        await meta.event('l2_alloc_cow_read')
      }
      for (let at = 0; at < clusterSize; at += meta.l2.tableBytes) {
        await this.#createSlice(offset + at, old === 0 ? 0 : old + at)
      }
      await meta.event('l2_alloc_write')
      await meta.flushL2()
    } catch (error) {
      meta.l2.discardRange(offset, clusterSize)
      await meta.allocator.free(offset, clusterSize, 'always', false)
      throw error
    }
    const entry = meta.l1.entry(index)
    meta.l1.set(index, offset)
    try {
      await this.#writeEntry(index)
    } catch (error) {
      // The L1 table on disk may point to the new table: it stays counted, and is leaked.
      meta.l1.restore(index, entry)
      meta.l2.discardRange(offset, clusterSize)
      throw error
    }
    meta.overlap?.setTable(offset, true)
    if (old !== 0) {
      meta.overlap?.setTable(old, false)
      meta.l2.discardRange(old, clusterSize)
      await meta.allocator.free(old, clusterSize, 'other', false)
    }
  }

  async #createSlice(offset: number, old: number): Promise<void> {
    const { l2 } = this.#meta
    const source = old === 0 ? undefined : await l2.load(old)
    try {
      const slice = await l2.create(offset)
      if (source !== undefined) {
        slice.bytes.set(source.bytes)
      }
      l2.release(slice)
    } finally {
      if (source !== undefined) {
        l2.release(source)
      }
    }
  }

  async #writeEntry(index: number): Promise<void> {
    const { l1 } = this.#meta
    const { at, bytes } = l1.sectorOf(index)
    await this.#meta.event('l1_update')
    await this.#meta.writeThrough(l1.offset + at, bytes)
  }

  /**
   * Moves the L1 table to a larger one. Lock held.
   *
   * @param minSize entries needed
   * @param exact no room for further growth
   * @throws EFBIG beyond 32 MiB
   */
  async growL1(minSize: number, exact: boolean): Promise<void> {
    const meta = this.#meta
    const { l1, header, geometry } = meta
    if (minSize <= l1.size) {
      return
    }
    let size = minSize
    if (!exact) {
      size = Math.max(1, l1.size)
      while (size < minSize) {
        size = Math.floor((size * 3 + 1) / 2)
      }
    }
    if (size > maxL1Bytes / tableEntryBytes) {
      throw ioError('EFBIG')
    }
    const bytes = new Uint8Array(size * tableEntryBytes)
    bytes.set(l1.bytes)
    await meta.event('l1_grow_alloc_table')
    const offset = await meta.allocator.allocate(geometry.clusters(bytes.length))
    if (offset === 0) {
      throw meta.corruption.signal('Preventing invalid write on metadata (overlaps with qcow2_header)')
    }
    try {
      await meta.flushBlocks()
      await meta.event('l1_grow_write_table')
      await meta.writeThrough(offset, bytes)
    } catch (error) {
      await meta.allocator.free(offset, bytes.length, 'other', false)
      throw error
    }
    const field = new Uint8Array(12)
    const view = new DataView(field.buffer)
    view.setUint32(0, size)
    view.setUint32(4, Math.floor(offset / 0x100000000))
    view.setUint32(8, offset % 0x100000000)
    await meta.event('l1_grow_activate_table')
    // If this fails the header on disk may name the new table: its clusters stay counted.
    await meta.writeThrough(headerL1Field, field)
    const oldOffset = l1.offset
    const oldBytes = l1.size * tableEntryBytes
    l1.replace(offset, bytes)
    header.l1Size = size
    header.l1TableOffset = offset
    await meta.allocator.free(oldOffset, oldBytes, 'other', false)
  }

  /**
   * Clears the L1 entries from `size` on, whose L2 tables map nothing any more, and frees the tables.
   * The L1 table keeps its length. Lock held.
   */
  async shrinkL1(size: number): Promise<void> {
    const meta = this.#meta
    const { l1, geometry } = meta
    if (size >= l1.size) {
      return
    }
    const tables: number[] = []
    for (let index = l1.size - 1; index >= size; index--) {
      const table = this.#tableOffset(index)
      if (table !== 0) {
        tables.push(table)
      }
    }
    // What the tables say about freed clusters must not be lost before the tables are.
    await meta.flushL2()
    await meta.event('l1_shrink_write_table')
    try {
      await meta.writeThrough(
        l1.offset + size * tableEntryBytes,
        new Uint8Array((l1.size - size) * tableEntryBytes),
      )
    } catch (error) {
      // The table on disk may be half cleared: forget the entries, leaking their tables.
      for (let index = size; index < l1.size; index++) {
        l1.set(index, 0)
      }
      throw error
    }
    for (let index = size; index < l1.size; index++) {
      l1.set(index, 0)
    }
    await meta.event('l1_shrink_free_l2_clusters')
    for (const table of tables) {
      meta.overlap?.setTable(table, false)
      meta.l2.discardRange(table, geometry.clusterSize)
      await meta.allocator.free(table, geometry.clusterSize, 'always', false)
    }
  }
}
