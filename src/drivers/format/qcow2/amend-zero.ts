import type { CachedTable } from '../../../formatkit/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { hex } from './check-walk.js'
import { EntryHigh, tableEntryBytes } from './constants.js'
import { readPadded } from './file-read.js'
import { ClusterType, clusterType, hostOffset } from './l2-entry.js'
import type { Qcow2Metadata } from './metadata.js'

/**
 * Turns clusters that read as zeroes into clusters of zeroes, or into unallocated ones where there is
 * nothing below: version 2 has no such thing. In all tables, also those of snapshots. Metadata lock held.
 */
export class ZeroExpansion {
  readonly #meta: Qcow2Metadata
  readonly #progress: (done: number, total: number) => void
  readonly #slice = new TimeSlice()
  #visited = 0
  #total = 0

  constructor(meta: Qcow2Metadata, progress: (done: number, total: number) => void) {
    this.#meta = meta
    this.#progress = progress
  }

  async expand(): Promise<void> {
    const meta = this.#meta
    const { l1, snapshots } = meta
    this.#total = snapshots.reduce((sum, { l1Size }) => sum + l1Size, l1.size)
    await this.#expandTree(l1.bytes.slice())
    // Snapshots share tables with the guest: what it has changed must be in the file.
    await meta.flushL2()
    for (const { l1TableOffset, l1Size } of snapshots) {
      const bytes = new Uint8Array(l1Size * tableEntryBytes)
      const wait = readPadded(meta.file, Number(l1TableOffset), bytes)
      if (wait !== undefined) {
        await wait
      }
      await this.#expandTree(bytes)
      await meta.flushL2()
    }
    await meta.flushBlocks()
    await meta.allocator.passDiscards()
  }

  async #expandTree(l1: Uint8Array): Promise<void> {
    const { geometry, corruption, l2, refcounts } = this.#meta
    const { clusterSize } = geometry
    const view = new DataView(l1.buffer, l1.byteOffset, l1.byteLength)
    for (let at = 0; at + tableEntryBytes <= l1.length; at += tableEntryBytes) {
      const table = hostOffset(view.getUint32(at), view.getUint32(at + 4))
      if (table % clusterSize !== 0) {
        throw corruption.signal(
          `L2 table offset ${hex(table)} unaligned (L1 index: ${hex(at / tableEntryBytes)})`,
        )
      }
      if (table !== 0) {
        const shared = await refcounts.get(table / clusterSize)
        for (let slice = table; slice < table + clusterSize; slice += l2.tableBytes) {
          const loaded = await l2.load(slice)
          try {
            await this.#expandSlice(loaded, table, shared)
          } finally {
            l2.release(loaded)
          }
        }
      }
      this.#visited++
      this.#progress(this.#visited, this.#total)
      const wait = this.#slice.breathe()
      if (wait !== undefined) {
        await wait
      }
    }
  }

  /** @param shared references to the L2 table: so many has each cluster that it refers to */
  async #expandSlice(slice: CachedTable, table: number, shared: number): Promise<void> {
    const meta = this.#meta
    const { view } = slice
    for (let i = 0; i < meta.sliceEntries; i++) {
      const at = i * tableEntryBytes
      const high = view.getUint32(at)
      const low = view.getUint32(at + 4)
      const type = clusterType(high, low)
      if (type !== ClusterType.zeroPlain && type !== ClusterType.zeroAllocated) {
        continue
      }
      const own = type === ClusterType.zeroAllocated ? hostOffset(high, low) : 0
      if (own % meta.geometry.clusterSize !== 0) {
        const index = (slice.offset - table) / tableEntryBytes + i
        throw meta.corruption.signal(
          `Cluster allocation offset ${hex(own)} unaligned (L2 offset: ${hex(table)}, L2 index: ${hex(index)})`,
        )
      }
      const host = await this.#place(own, shared)
      if (!slice.dirty) {
        meta.overlap?.checkTable(table)
        const wait = meta.l2.orderAfter(meta.blocks)
        if (wait !== undefined) {
          await wait
        }
        meta.l2.orderAfterFlush()
      }
      const copied = host !== 0 && shared === 1 ? EntryHigh.copied : 0
      view.setUint32(at, (Math.floor(host / 0x100000000) | copied) >>> 0)
      view.setUint32(at + 4, host % 0x100000000)
      meta.l2.markDirty(slice)
      if (own !== 0 && own !== host) {
        await this.#giveUp(own, shared)
      }
    }
  }

  /** A cluster of zeroes for an entry that has `own` or, if that is 0, none; 0 if none is needed. */
  async #place(own: number, shared: number): Promise<number> {
    const meta = this.#meta
    const { clusterSize } = meta.geometry
    let host = own
    if (own !== 0 && (await meta.refcounts.get(own / clusterSize)) !== shared) {
      // Others refer to it as data.
      host = 0
    }
    if (host === 0) {
      if (meta.node.backingNode === undefined) {
        return 0
      }
      host = await meta.allocator.allocate(1)
      for (let count = 1; count < shared; count++) {
        await meta.refcounts.increase(host / clusterSize, 1)
      }
    } else {
      meta.overlap?.check(host, clusterSize)
    }
    const wait = meta.file.writeZeroes(host, clusterSize, 0)
    if (wait !== undefined) {
      await wait
    }
    return host
  }

  async #giveUp(own: number, shared: number): Promise<void> {
    for (let count = 0; count < shared; count++) {
      await this.#meta.allocator.free(own, this.#meta.geometry.clusterSize, 'request', true)
    }
  }
}
