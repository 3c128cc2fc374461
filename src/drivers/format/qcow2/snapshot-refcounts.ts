import { ioError } from '../../../errors/index.js'
import type { CachedTable } from '../../../formatkit/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { hex } from './check-walk.js'
import { compressedCookie, compressedPlace } from './compressed-cookie.js'
import { EntryHigh, tableEntryBytes } from './constants.js'
import { ClusterType, clusterType, hostOffset, isCopied } from './l2-entry.js'
import type { Qcow2Metadata } from './metadata.js'

/** What a tree's references become: one more each, one less each, or only the COPIED flags are brought up to date. */
export type TreeChange = 1 | 0 | -1

/**
 * Changes the refcounts of everything an L1 table leads to, and the COPIED flags with them. The
 * flags belong to L2 tables that several L1 tables share, so they are right for all of them.
 *
 * Called with the metadata lock held.
 */
export class SnapshotRefcounts {
  readonly #meta: Qcow2Metadata
  readonly #slice = new TimeSlice()
  /** Changes of refcounts made, and how many to make at most. */
  #done = 0
  #limit = Number.POSITIVE_INFINITY

  constructor(meta: Qcow2Metadata) {
    this.#meta = meta
  }

  /**
   * Walks the tree below `l1`, whose flags are changed in place. Refcounts and L2 tables are durable
   * afterwards; the L1 table is the caller's to write. If a refcount cannot be increased, those that
   * were are decreased again.
   *
   * @param l1 the table as it stands in the file
   * @returns whether `l1` has changed
   * @throws EINVAL if a refcount would overflow, EIO if the tree is corrupt
   */
  async update(l1: Uint8Array, change: TreeChange): Promise<boolean> {
    this.#done = 0
    this.#limit = Number.POSITIVE_INFINITY
    try {
      return await this.#walk(l1, change)
    } catch (error) {
      if (change === 1 && this.#done !== 0) {
        this.#limit = this.#done
        this.#done = 0
        // What cannot be undone stays counted: a leak.
        await this.#walk(l1, -1).catch(() => undefined)
      }
      throw error
    }
  }

  async #walk(l1: Uint8Array, change: TreeChange): Promise<boolean> {
    const meta = this.#meta
    const { clusterSize } = meta.geometry
    const view = new DataView(l1.buffer, l1.byteOffset, l1.byteLength)
    let modified = false
    for (let at = 0; at + tableEntryBytes <= l1.length; at += tableEntryBytes) {
      const high = view.getUint32(at)
      const table = hostOffset(high, view.getUint32(at + 4))
      if (table === 0) {
        continue
      }
      if (table % clusterSize !== 0) {
        throw meta.corruption.signal(
          `L2 table offset ${hex(table)} unaligned (L1 index: ${hex(at / tableEntryBytes)})`,
        )
      }
      for (let slice = table; slice < table + clusterSize; slice += meta.l2.tableBytes) {
        await this.#updateSlice(slice, table, change)
      }
      const refcount = await this.#count(table, clusterSize, change)
      const flagged = withCopied(high, refcount === 1)
      if (flagged !== high) {
        view.setUint32(at, flagged)
        modified = true
      }
      const wait = this.#slice.breathe()
      if (wait !== undefined) {
        await wait
      }
    }
    await meta.flushL2()
    await meta.flushBlocks()
    return modified
  }

  async #updateSlice(offset: number, table: number, change: TreeChange): Promise<void> {
    const { l2 } = this.#meta
    const slice = await l2.load(offset)
    try {
      if (change !== 0) {
        await this.#countEntries(slice, change)
      }
      await this.#flagEntries(slice, table)
    } finally {
      l2.release(slice)
    }
  }

  /** Changes the refcounts of what the entries refer to, runs of clusters at a time. */
  async #countEntries(slice: CachedTable, change: 1 | -1): Promise<void> {
    const { geometry, sliceEntries } = this.#meta
    const { clusterSize, entryBytes } = geometry
    const { view } = slice
    let start = 0
    let end = 0
    for (let i = 0; i < sliceEntries; i++) {
      const high = view.getUint32(i * entryBytes)
      const low = view.getUint32(i * entryBytes + 4)
      const type = clusterType(high, low)
      if (type === ClusterType.compressed) {
        const { offset, bytes } = compressedPlace(compressedCookie(high, low, geometry), geometry)
        await this.#change(start, end - start, change)
        start = 0
        end = 0
        await this.#change(offset, bytes, change)
      } else if (type === ClusterType.normal || type === ClusterType.zeroAllocated) {
        const host = this.#checkedHost(high, low, slice, i)
        if (host !== end) {
          await this.#change(start, end - start, change)
          start = host
        }
        end = host + clusterSize
      }
    }
    await this.#change(start, end - start, change)
  }

  #checkedHost(high: number, low: number, slice: CachedTable, index: number): number {
    const host = hostOffset(high, low)
    const { geometry, corruption, sliceEntries } = this.#meta
    if (host % geometry.clusterSize !== 0) {
      const table = geometry.clusterStart(slice.offset)
      const inTable = ((slice.offset - table) / (sliceEntries * geometry.entryBytes)) * sliceEntries + index
      throw corruption.signal(
        `Cluster allocation offset ${hex(host)} unaligned (L2 offset: ${hex(table)}, L2 index: ${hex(inTable)})`,
      )
    }
    return host
  }

  /** Sets COPIED where the refcount is 1 and clears it elsewhere. */
  async #flagEntries(slice: CachedTable, table: number): Promise<void> {
    const { l2, blocks, refcounts, geometry, overlap, sliceEntries } = this.#meta
    const { entryBytes } = geometry
    const { view } = slice
    for (let i = 0; i < sliceEntries; i++) {
      const high = view.getUint32(i * entryBytes)
      const low = view.getUint32(i * entryBytes + 4)
      const type = clusterType(high, low)
      let only = false
      if (type === ClusterType.normal || type === ClusterType.zeroAllocated) {
        const cluster = this.#checkedHost(high, low, slice, i) / geometry.clusterSize
        const known = refcounts.peek(cluster)
        only = (known >= 0 ? known : await refcounts.get(cluster)) === 1
      }
      const flagged = withCopied(high, only)
      if (flagged !== high) {
        if (!slice.dirty) {
          overlap?.checkTable(table)
          const wait = l2.orderAfter(blocks)
          if (wait !== undefined) {
            await wait
          }
        }
        view.setUint32(i * entryBytes, flagged)
        l2.markDirty(slice)
      }
    }
  }

  /** Changes the refcount of the L2 table at `offset` and returns the new one. */
  async #count(offset: number, bytes: number, change: TreeChange): Promise<number> {
    if (change !== 0) {
      await this.#change(offset, bytes, change)
    }
    const refcount = await this.#meta.refcounts.get(offset / this.#meta.geometry.clusterSize)
    if (refcount === 0) {
      this.#meta.l2.discardRange(offset, bytes)
    }
    return refcount
  }

  async #change(offset: number, bytes: number, change: 1 | -1): Promise<void> {
    if (bytes === 0 || this.#done >= this.#limit) {
      return
    }
    const { refcounts, allocator, geometry } = this.#meta
    const first = Math.floor(offset / geometry.clusterSize)
    const count = Math.floor((offset + bytes - 1) / geometry.clusterSize) + 1 - first
    if (!Number.isSafeInteger(offset + bytes)) {
      throw ioError('EINVAL')
    }
    if (change === 1) {
      while (!(await refcounts.increase(first, count))) {
        // A refcount block was made first; only corrupt images need one here.
      }
    } else {
      await refcounts.decrease(first, count, (start, end) => {
        allocator.freed(start, end - start, 'snapshot', false)
      })
    }
    this.#done++
  }
}

function withCopied(high: number, copied: boolean): number {
  return copied === isCopied(high) ? high : (high ^ EntryHigh.copied) >>> 0
}
