import type { CachedTable } from '../../../formatkit/index.js'
import type { WritePlan } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { FreeReason } from './allocate.js'
import { hex } from './check-walk.js'
import { compressedCookie, compressedPlace } from './compressed-cookie.js'
import { EntryHigh, tableEntryBytes } from './constants.js'
import { ClusterType, clusterType, hostOffset, needsAllocation } from './l2-entry.js'
import type { L2Tables } from './l2-tables.js'
import type { Qcow2Metadata } from './metadata.js'

/** Host clusters set aside for a write, not linked yet. */
export interface Allocation {
  /** Guest offset of the first cluster. */
  readonly guest: number
  readonly host: number
  readonly clusters: number
  /** The clusters belong to the guest clusters already (they read as zeroes): nothing to free. */
  readonly keeps: boolean
}

/**
 * Writes: decides where data goes and links new clusters.
 *
 * A cluster with one reference is overwritten in place. Everything else (unallocated, plain zero,
 * compressed, shared with a snapshot) gets new clusters, as many in a row as the request covers
 * within one L2 slice. Zero clusters that have host clusters of their own reuse them.
 */
export class ClusterWriter {
  protected readonly meta: Qcow2Metadata
  protected readonly tables: L2Tables
  /** Where the next part of a request that was cut short begins, and where its data would be contiguous. */
  #hintGuest = -1
  #hintHost = 0
  /** Host offset of clusters found by {@link decide} that can be reused, or -1. */
  protected reuse = -1

  constructor(meta: Qcow2Metadata, tables: L2Tables) {
    this.meta = meta
    this.tables = tables
  }

  /** See MapPath.resolveWrite. */
  resolveWrite(offset: number, bytes: number, plan: WritePlan): Wait {
    const meta = this.meta
    const slice = this.tables.writable(offset)
    // Overwriting in place changes no metadata, so it need not wait for who does.
    if (slice === undefined || (meta.lock.locked && !this.isInPlace(slice, offset))) {
      return this.#resolveSlow(offset, bytes, plan)
    }
    return this.#resolveNow(slice, offset, bytes, plan) ? undefined : this.#resolveSlow(offset, bytes, plan)
  }

  /** Resolves from what is in memory; false if more is needed for that. */
  #resolveNow(slice: CachedTable, offset: number, bytes: number, plan: WritePlan): boolean {
    const wanted = this.decide(slice, offset, bytes, plan)
    if (wanted === 0) {
      return true
    }
    if (this.reuse >= 0) {
      this.allocated(plan, offset, bytes, this.reuse, wanted, true)
      return true
    }
    if (!this.#tryAllocated(plan, offset, bytes, wanted)) {
      this.#unreserve(plan)
      return false
    }
    return true
  }

  protected isInPlace(slice: CachedTable, offset: number): boolean {
    const at = (this.tables.l2Index(offset) % this.meta.sliceEntries) * tableEntryBytes
    const high = slice.view.getUint32(at)
    const low = slice.view.getUint32(at + 4)
    return clusterType(high, low) === ClusterType.normal && !needsAllocation(high, low)
  }

  /** Allocates from what is in memory and fills the plan; false if more is needed for that. */
  #tryAllocated(plan: WritePlan, offset: number, bytes: number, wanted: number): boolean {
    const { allocator } = this.meta
    try {
      let clusters = 0
      let host = this.#hintHost
      if (offset === this.#hintGuest) {
        clusters = allocator.tryAllocateAt(host, wanted)
      }
      if (clusters === 0) {
        clusters = wanted
        host = allocator.tryAllocate(wanted)
      }
      if (clusters < 0 || host < 0) {
        return false
      }
      this.#checkPlace(host)
      this.allocated(plan, offset, bytes, host, clusters, false)
      return true
    } catch (error) {
      this.#unreserve(plan)
      throw error
    }
  }

  /** Refuses the header's cluster, which only corrupt refcounts make look free. */
  #checkPlace(host: number): void {
    if (host === 0) {
      throw this.meta.corruption.signal('Preventing invalid write on metadata (overlaps with qcow2_header)')
    }
  }

  /** Often only somebody else's turn was in the way. */
  #resolveSlow(offset: number, bytes: number, plan: WritePlan): Promise<void> {
    return this.meta.locked(() => {
      const slice = this.tables.writable(offset)
      return slice !== undefined && this.#resolveNow(slice, offset, bytes, plan)
        ? undefined
        : this.#resolveLocked(offset, bytes, plan)
    })
  }

  async #resolveLocked(offset: number, bytes: number, plan: WritePlan): Promise<void> {
    const meta = this.meta
    const slice = await this.tables.makeWritable(offset)
    let wanted: number
    try {
      wanted = this.decide(slice, offset, bytes, plan)
    } finally {
      meta.l2.release(slice)
    }
    if (wanted === 0) {
      return
    }
    if (this.reuse >= 0) {
      this.allocated(plan, offset, bytes, this.reuse, wanted, true)
      return
    }
    try {
      let clusters = 0
      let host = this.#hintHost
      if (offset === this.#hintGuest) {
        clusters = await meta.allocator.allocateAt(host, wanted)
      }
      if (clusters === 0) {
        clusters = wanted
        host = await meta.allocator.allocate(wanted)
      }
      this.#checkPlace(host)
      this.allocated(plan, offset, bytes, host, clusters, false)
    } catch (error) {
      this.#unreserve(plan)
      throw error
    }
  }

  /** Gives back the guest range that the plan reserved. */
  #unreserve(plan: WritePlan): void {
    if (plan.lock !== undefined) {
      this.meta.node.allocations.release(plan.lock)
      plan.lock = undefined
    }
  }

  /**
   * Fills the plan for an overwrite in place, or marks it as conflicting, and returns 0. Otherwise
   * reserves the guest range and returns the number of clusters that need host space: those at
   * {@link reuse}, or new ones.
   */
  protected decide(slice: CachedTable, offset: number, bytes: number, plan: WritePlan): number {
    const meta = this.meta
    const { clusterSize } = meta.geometry
    const { view } = slice
    const first = this.tables.l2Index(offset) % meta.sliceEntries
    const inCluster = offset % clusterSize
    const count = Math.min(meta.sliceEntries - first, Math.ceil((inCluster + bytes) / clusterSize))
    const high = view.getUint32(first * tableEntryBytes)
    const low = view.getUint32(first * tableEntryBytes + 4)
    const isNew = needsAllocation(high, low)
    const type = clusterType(high, low)
    let host = 0
    if (!isNew) {
      host = hostOffset(high, low)
      if (host % clusterSize !== 0) {
        const what = type === ClusterType.normal ? 'Data' : 'Preallocated zero'
        throw meta.corruption.signal(
          `${what} cluster offset ${hex(host)} unaligned (guest offset: ${hex(offset)})`,
        )
      }
    }
    let run = 1
    while (run < count) {
      const at = (first + run) * tableEntryBytes
      const nextHigh = view.getUint32(at)
      const nextLow = view.getUint32(at + 4)
      if (isNew) {
        if (!needsAllocation(nextHigh, nextLow)) {
          break
        }
      } else if (
        needsAllocation(nextHigh, nextLow) ||
        clusterType(nextHigh, nextLow) !== type ||
        hostOffset(nextHigh, nextLow) !== host + run * clusterSize
      ) {
        break
      }
      run++
    }
    if (type === ClusterType.normal && !isNew) {
      const covered = Math.min(bytes, run * clusterSize - inCluster)
      meta.overlap?.check(host + inCluster, covered)
      plan.inPlace(covered, meta.data, host + inCluster)
      this.hint(offset, bytes, covered, host + inCluster)
      return 0
    }
    const guest = offset - inCluster
    const locks = meta.node.allocations
    if (locks.size !== 0) {
      // Stop before an allocation in flight rather than wait for it, if there is something to stop at.
      let free = 0
      while (free < run && !locks.isLocked(guest + free * clusterSize, guest + (free + 1) * clusterSize)) {
        free++
      }
      run = Math.max(1, free)
    }
    if (!isNew) {
      meta.overlap?.check(host, run * clusterSize)
    }
    if (!plan.reserve(locks, guest, guest + run * clusterSize)) {
      return 0
    }
    this.reuse = isNew ? -1 : host
    return run
  }

  protected allocated(
    plan: WritePlan,
    offset: number,
    bytes: number,
    host: number,
    clusters: number,
    keeps: boolean,
  ): void {
    const { clusterSize } = this.meta.geometry
    const head = offset % clusterSize
    const covered = Math.min(bytes, clusters * clusterSize - head)
    const token: Allocation = { guest: offset - head, host, clusters, keeps }
    const tail = clusters * clusterSize - head - covered
    plan.allocate(covered, this.meta.data, host + head, head, tail, false, token)
    this.hint(offset, bytes, covered, host + head)
  }

  /** The rest of a request goes right behind its first part, if there is room. */
  protected hint(offset: number, bytes: number, covered: number, host: number): void {
    this.#hintGuest = covered < bytes ? offset + covered : -1
    this.#hintHost = host + covered
  }

  /** See MapPath.commitWrite. */
  commitWrite(plan: WritePlan): Wait {
    const meta = this.meta
    const allocation = plan.token as Allocation
    const { copied } = plan
    if (!meta.lock.locked && this.#commitNow(allocation, copied)) {
      return undefined
    }
    return meta.locked(() =>
      this.#commitNow(allocation, copied) ? undefined : this.#commitLocked(allocation, copied),
    )
  }

  /** Links in memory; false if that needs I/O, or frees something. */
  #commitNow(allocation: Allocation, copied: boolean): boolean {
    const meta = this.meta
    if (!meta.isDirty && (meta.lazyRefcounts || !meta.l2.canOrderAfter(meta.blocks))) {
      return false
    }
    const slice = this.tables.writable(allocation.guest)
    if (slice === undefined || (!allocation.keeps && this.replaces(slice, allocation))) {
      return false
    }
    if (copied || meta.isDirty || this.#showsOldData) {
      meta.l2.orderAfterFlush()
    }
    const wait = meta.isDirty ? undefined : meta.l2.orderAfter(meta.blocks)
    if (wait !== undefined) {
      throw new Error('orderAfter did I/O although it said it would not')
    }
    this.link(slice, allocation)
    return true
  }

  /**
   * Whether a link could show what the guest has replaced long ago, if it were durable before the data: in a file
   * of their own, clusters have their places for ever, and the refcounts that links wait for do not flush that.
   */
  get #showsOldData(): boolean {
    return this.meta.isExternal
  }

  async #commitLocked(allocation: Allocation, copied: boolean): Promise<void> {
    const meta = this.meta
    const old: [number, number][] = []
    try {
      const slice = await this.tables.makeWritable(allocation.guest)
      try {
        if (copied || this.#showsOldData) {
          meta.l2.orderAfterFlush()
        }
        await meta.orderLinks()
        this.link(slice, allocation, old)
      } finally {
        meta.l2.release(slice)
      }
    } catch (error) {
      await this.#giveBack(allocation)
      throw error
    }
    if (!allocation.keeps) {
      await this.freeEntries(old, 'never')
    }
  }

  /** Whether linking replaces entries that own host space. */
  protected replaces(slice: CachedTable, allocation: Allocation): boolean {
    const first = this.tables.l2Index(allocation.guest) % this.meta.sliceEntries
    for (let i = first; i < first + allocation.clusters; i++) {
      const type = clusterType(
        slice.view.getUint32(i * tableEntryBytes),
        slice.view.getUint32(i * tableEntryBytes + 4),
      )
      if (type !== ClusterType.unallocated && type !== ClusterType.zeroPlain) {
        return true
      }
    }
    return false
  }

  /** Enters an allocation into the L2 table; `old` gets the entries that it replaces. */
  protected link(slice: CachedTable, allocation: Allocation, old?: [number, number][]): void {
    const { clusterSize } = this.meta.geometry
    const { view } = slice
    const first = this.tables.l2Index(allocation.guest) % this.meta.sliceEntries
    for (let i = 0; i < allocation.clusters; i++) {
      const at = (first + i) * tableEntryBytes
      old?.push([view.getUint32(at), view.getUint32(at + 4)])
      const host = allocation.host + i * clusterSize
      view.setUint32(at, (Math.floor(host / 0x100000000) | EntryHigh.copied) >>> 0)
      view.setUint32(at + 4, host % 0x100000000)
    }
    this.meta.l2.markDirty(slice)
  }

  /** {@link commitWrite} of clusters that are put in place without data. */
  commitPreallocated(plan: WritePlan): Wait {
    return this.commitWrite(plan)
  }

  /** See MapPath.abortWrite. */
  abortWrite(plan: WritePlan): Wait {
    const allocation = plan.token as Allocation
    return allocation.keeps ? undefined : this.meta.locked(() => this.#giveBack(allocation))
  }

  async #giveBack(allocation: Allocation): Promise<void> {
    const { allocator, geometry } = this.meta
    if (!allocation.keeps) {
      const bytes = allocation.clusters * geometry.clusterSize
      await allocator.free(allocation.host, bytes, 'never', false)
    }
  }

  /**
   * Links `clusters` clusters at `host` to the guest clusters from `guest` on, which lie in one slice
   * and own nothing. The refcounts are counted already. Lock held.
   */
  async linkNew(guest: number, host: number, clusters: number, copied: boolean): Promise<void> {
    const meta = this.meta
    const slice = await this.tables.makeWritable(guest)
    try {
      if (copied) {
        meta.l2.orderAfterFlush()
      }
      await meta.orderLinks()
      const old: [number, number][] = []
      this.link(slice, { guest, host, clusters, keeps: false }, old)
      await this.freeEntries(old, 'never')
    } finally {
      meta.l2.release(slice)
    }
  }

  /** Takes the references of L2 entries from their host clusters, whatever their type. Lock held. */
  async freeEntries(entries: readonly (readonly [number, number])[], reason: FreeReason): Promise<void> {
    const { allocator, geometry, corruption } = this.meta
    const { clusterSize } = geometry
    let start = 0
    let end = 0
    for (const [high, low] of entries) {
      const type = clusterType(high, low)
      if (type === ClusterType.compressed) {
        // Several of them share host clusters, so each is given back on its own.
        const { offset, bytes } = compressedPlace(compressedCookie(high, low, geometry), geometry)
        this.onCompressedFreed?.()
        await allocator.freeCompressed(offset, bytes, reason)
        continue
      }
      const host = hostOffset(high, low)
      if (host === 0) {
        continue
      }
      if (host % clusterSize !== 0) {
        corruption.signal(`Cannot free unaligned cluster ${hex(host)}`, false)
        continue
      }
      if (host !== end) {
        await allocator.free(start, end - start, reason, true)
        start = host
      }
      end = host + clusterSize
    }
    await allocator.free(start, end - start, reason, true)
  }

  /** Called when compressed clusters are freed: their host space may soon hold something else. */
  onCompressedFreed: (() => void) | undefined = undefined
}
