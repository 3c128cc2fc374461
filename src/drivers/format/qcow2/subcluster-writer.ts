import type { CachedTable } from '../../../formatkit/index.js'
import type { WritePlan } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { FreeReason } from './allocate.js'
import { hex } from './check-walk.js'
import { type Allocation, ClusterWriter } from './cluster.js'
import { EntryHigh } from './constants.js'
import { ClusterType, hostOffset } from './l2-entry.js'
import type { L2Tables } from './l2-tables.js'
import type { Qcow2Metadata } from './metadata.js'
import { bitRange, lowestBit, type SubclusterEntries, SubclusterType } from './subclusters.js'

/** An allocation that makes only a part of its clusters hold data. */
interface SubclusterAllocation extends Allocation {
  /** Guest range of the subclusters that are complete once the data is written. */
  from: number
  to: number
}

/**
 * {@link ClusterWriter} for images with extended L2 entries or an external data file.
 *
 * A subcluster with data of its own is overwritten in place. Where the host cluster is there but the
 * subcluster is not in use yet, only the subclusters that the data touches are completed. A new host
 * cluster gets what the old one held in its subclusters, and no more.
 *
 * In an external data file every guest cluster has its place: there is nothing to allocate and
 * nothing to free.
 */
export class SubclusterWriter extends ClusterWriter {
  readonly #entries: SubclusterEntries
  /** Guest range of whole subclusters that the allocation found by {@link decide} has to fill. */
  #from = 0
  #to = 0

  constructor(meta: Qcow2Metadata, tables: L2Tables, entries: SubclusterEntries) {
    super(meta, tables)
    this.#entries = entries
  }

  #position(offset: number): number {
    return (this.tables.l2Index(offset) % this.meta.sliceEntries) * this.meta.geometry.entryBytes
  }

  #subcluster(offset: number): number {
    return Math.floor((offset % this.meta.geometry.clusterSize) / this.#entries.size)
  }

  protected override isInPlace(slice: CachedTable, offset: number): boolean {
    const { view } = slice
    const at = this.#position(offset)
    return (
      this.#entries.type(view, at, this.#subcluster(offset)) === SubclusterType.normal &&
      !this.#entries.needsAllocation(view.getUint32(at), view.getUint32(at + 4))
    )
  }

  #isNew(view: DataView, at: number): boolean {
    return this.#entries.needsAllocation(view.getUint32(at), view.getUint32(at + 4))
  }

  protected override decide(slice: CachedTable, offset: number, bytes: number, plan: WritePlan): number {
    const { meta } = this
    const { clusterSize, entryBytes } = meta.geometry
    const { view } = slice
    const at = this.#position(offset)
    const inCluster = offset % clusterSize
    const room = meta.sliceEntries - at / entryBytes
    const count = Math.min(room, Math.ceil((inCluster + bytes) / clusterSize))
    this.#checkEntry(view, at, offset)
    if (this.#isNew(view, at)) {
      return this.#decideNew(view, at, offset, bytes, count, plan)
    }
    return this.#decideOwn(view, at, offset, Math.min(bytes, count * clusterSize - inCluster), bytes, plan)
  }

  /** Refuses an entry that must not be written through. Throws EIO. */
  #checkEntry(view: DataView, at: number, offset: number): void {
    const { corruption, geometry, isExternal } = this.meta
    const subcluster = this.#subcluster(offset)
    const type = this.#entries.type(view, at, subcluster)
    const place = () => {
      const table = hex(this.tables.tableOffset(offset))
      return `(L2 offset: ${table}, L2 index: ${hex(this.tables.l2Index(offset))})`
    }
    if (type === SubclusterType.invalid) {
      throw corruption.signal(`Invalid cluster entry found ${place()}`)
    }
    if (isExternal && type === SubclusterType.compressed) {
      throw corruption.signal(`Compressed cluster entry found in image with external data file ${place()}`)
    }
    if (this.#isNew(view, at)) {
      return
    }
    const host = this.#entries.host(view, at)
    if (host % geometry.clusterSize !== 0) {
      const zero =
        this.#entries.clusterType(view.getUint32(at), view.getUint32(at + 4)) !== ClusterType.normal
      throw corruption.signal(
        `${zero ? 'Preallocated zero' : 'Data'} cluster offset ${hex(host)} unaligned (guest offset: ${hex(offset)})`,
      )
    }
    if (isExternal && host !== geometry.clusterStart(offset)) {
      throw corruption.signal(
        `External data file host cluster offset ${hex(host)} does not match guest cluster ` +
          `offset: ${hex(geometry.clusterStart(offset))}, L2 index: ${hex(this.tables.l2Index(offset))})`,
      )
    }
  }

  /** The host cluster is the guest's own: what is alike from `offset` on, up to `limit` bytes. */
  #decideOwn(
    view: DataView,
    first: number,
    offset: number,
    limit: number,
    bytes: number,
    plan: WritePlan,
  ): number {
    const { meta } = this
    const { clusterSize, entryBytes } = meta.geometry
    const { size } = this.#entries
    const start = meta.geometry.clusterStart(offset)
    const host = this.#entries.host(view, first)
    const normal = this.#entries.type(view, first, this.#subcluster(offset)) === SubclusterType.normal
    let reached = offset
    while (reached < offset + limit) {
      const cluster = Math.floor((reached - start) / clusterSize)
      const at = first + cluster * entryBytes
      if (reached % clusterSize === 0 && reached !== offset) {
        if (this.#isNew(view, at) || this.#entries.host(view, at) !== host + cluster * clusterSize) {
          break
        }
      }
      const type = this.#entries.type(view, at, this.#subcluster(reached))
      if (type === SubclusterType.invalid || (type === SubclusterType.normal) !== normal) {
        break
      }
      reached += size - (reached % size)
    }
    const covered = Math.min(limit, reached - offset)
    const target = host + (offset - start)
    if (!meta.isExternal) {
      meta.overlap?.check(target, covered)
    }
    if (normal) {
      plan.inPlace(covered, meta.data, target)
      this.#hintAligned(offset, bytes, covered, target)
      return 0
    }
    return this.#reserve(offset, start, host, covered, plan)
  }

  /** Holds the clusters that `covered` bytes touch. Returns how many, 0 if somebody else has one of them. */
  #reserve(offset: number, start: number, host: number, covered: number, plan: WritePlan): number {
    const { meta } = this
    const { clusterSize } = meta.geometry
    const { size } = this.#entries
    const locks = meta.node.allocations
    let clusters = Math.ceil((offset + covered - start) / clusterSize)
    if (locks.size !== 0) {
      let free = 0
      while (
        free < clusters &&
        !locks.isLocked(start + free * clusterSize, start + (free + 1) * clusterSize)
      ) {
        free++
      }
      clusters = Math.max(1, free)
    }
    if (!plan.reserve(locks, start, start + clusters * clusterSize)) {
      return 0
    }
    const end = Math.min(offset + covered, start + clusters * clusterSize)
    this.#from = offset - (offset % size)
    this.#to = Math.ceil(end / size) * size
    this.reuse = host
    return clusters
  }

  /** A run of clusters that need host clusters, or that need only be put to use in an external file. */
  #decideNew(
    view: DataView,
    first: number,
    offset: number,
    bytes: number,
    count: number,
    plan: WritePlan,
  ): number {
    const { meta } = this
    const { clusterSize, entryBytes } = meta.geometry
    const guest = meta.geometry.clusterStart(offset)
    let run = 1
    while (run < count && this.#isNew(view, first + run * entryBytes)) {
      if (meta.isExternal && (view.getUint32(first + run * entryBytes) & EntryHigh.compressed) !== 0) {
        break
      }
      run++
    }
    const locks = meta.node.allocations
    if (locks.size !== 0) {
      let free = 0
      while (free < run && !locks.isLocked(guest + free * clusterSize, guest + (free + 1) * clusterSize)) {
        free++
      }
      run = Math.max(1, free)
    }
    const last = first + (run - 1) * entryBytes
    const end = Math.min(offset + bytes, guest + run * clusterSize)
    this.#checkEntry(view, last, guest + (run - 1) * clusterSize)
    if (!plan.reserve(locks, guest, guest + run * clusterSize)) {
      return 0
    }
    this.#from = this.#copyFrom(view, first, offset)
    this.#to = this.#copyTo(view, last, end)
    this.reuse = meta.isExternal ? guest : -1
    return run
  }

  /** Where the old cluster of `offset` has contents that must be copied, or the start of the subcluster. */
  #copyFrom(view: DataView, at: number, offset: number): number {
    const { clusterSize } = this.meta.geometry
    const { size } = this.#entries
    const start = offset - (offset % clusterSize)
    const type = this.#entries.clusterType(view.getUint32(at), view.getUint32(at + 4))
    const subcluster = this.#subcluster(offset)
    switch (type) {
      case ClusterType.unallocated:
      case ClusterType.zeroPlain:
        return start + subcluster * size
      case ClusterType.compressed:
        return start
      default:
        return start + Math.min(subcluster, lowestBit(this.#entries.allocated(view, at))) * size
    }
  }

  /** Where the contents end that must be copied behind `end`, or the end of the subcluster. */
  #copyTo(view: DataView, at: number, end: number): number {
    const { clusterSize } = this.meta.geometry
    const { size, count } = this.#entries
    const clusterEnd = Math.ceil(end / clusterSize) * clusterSize
    const type = this.#entries.clusterType(view.getUint32(at), view.getUint32(at + 4))
    switch (type) {
      case ClusterType.unallocated:
      case ClusterType.zeroPlain:
        return Math.ceil(end / size) * size
      case ClusterType.compressed:
        return clusterEnd
      default: {
        const beyond = (count === 1 ? 0 : Math.clz32(this.#entries.allocated(view, at))) * size
        return Math.max(Math.ceil(end / size) * size, clusterEnd - beyond)
      }
    }
  }

  protected override allocated(
    plan: WritePlan,
    offset: number,
    bytes: number,
    host: number,
    clusters: number,
    keeps: boolean,
  ): void {
    const { clusterSize } = this.meta.geometry
    const guest = this.meta.geometry.clusterStart(offset)
    const to = Math.min(this.#to, guest + clusters * clusterSize)
    const covered = Math.min(bytes, to - offset)
    const token: SubclusterAllocation = { guest, host, clusters, keeps, from: this.#from, to }
    const target = host + (offset - guest)
    plan.allocate(covered, this.meta.data, target, offset - this.#from, to - (offset + covered), false, token)
    this.#hintAligned(offset, bytes, covered, target)
  }

  /** What follows begins a host cluster of its own only at the end of this one. */
  #hintAligned(offset: number, bytes: number, covered: number, host: number): void {
    const { clusterSize } = this.meta.geometry
    this.hint(offset, (host + covered) % clusterSize === 0 ? bytes : covered, covered, host)
  }

  override commitPreallocated(plan: WritePlan): Wait {
    const token = plan.token as SubclusterAllocation
    token.from = token.guest
    token.to = token.guest
    return this.commitWrite(plan)
  }

  /** An external data file keeps what is not in use any more, unless it shall be told. */
  override async freeEntries(
    entries: readonly (readonly [number, number])[],
    reason: FreeReason,
  ): Promise<void> {
    if (!this.meta.isExternal) {
      await super.freeEntries(entries, reason)
      return
    }
    const { allocator, geometry } = this.meta
    for (const [high, low] of entries) {
      const type = this.#entries.clusterType(high, low)
      if (type === ClusterType.normal || type === ClusterType.zeroAllocated) {
        allocator.discardData(hostOffset(high, low), geometry.clusterSize, reason)
      }
    }
  }

  protected override replaces(slice: CachedTable, allocation: Allocation): boolean {
    const { entryBytes } = this.meta.geometry
    const first = this.#position(allocation.guest)
    for (let i = 0; i < allocation.clusters; i++) {
      const at = first + i * entryBytes
      const type = this.#entries.clusterType(slice.view.getUint32(at), slice.view.getUint32(at + 4))
      if (type !== ClusterType.unallocated && type !== ClusterType.zeroPlain) {
        return true
      }
    }
    return false
  }

  protected override link(slice: CachedTable, allocation: Allocation, old?: [number, number][]): void {
    const { geometry } = this.meta
    const { clusterSize, entryBytes } = geometry
    const { view } = slice
    const first = this.#position(allocation.guest)
    const { from = 0, to = 0 } = allocation as Partial<SubclusterAllocation>
    for (let i = 0; i < allocation.clusters; i++) {
      const at = first + i * entryBytes
      const high = view.getUint32(at)
      old?.push([high, view.getUint32(at + 4)])
      const host = allocation.host + i * clusterSize
      view.setUint32(at, (Math.floor(host / 0x100000000) | EntryHigh.copied) >>> 0)
      view.setUint32(at + 4, host % 0x100000000)
      if (geometry.extendedL2) {
        const start = allocation.guest + i * clusterSize
        if ((high & EntryHigh.compressed) !== 0) {
          this.#entries.setBitmap(view, at, 0, 0)
        }
        this.#markWritten(view, at, Math.max(0, from - start), Math.min(clusterSize, to - start))
      }
    }
    this.meta.l2.markDirty(slice)
  }

  /** Marks the subclusters in `[from, to)` of a cluster as holding data. */
  #markWritten(view: DataView, at: number, from: number, to: number): void {
    if (!(from < to)) {
      return
    }
    const written = bitRange(from / this.#entries.size, to / this.#entries.size)
    const zeroes = (this.#entries.zeroes(view, at) & ~written) >>> 0
    this.#entries.setBitmap(view, at, zeroes, (this.#entries.allocated(view, at) | written) >>> 0)
  }
}
