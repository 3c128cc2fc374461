import type { CachedTable } from '../../../formatkit/index.js'
import { ReqFlags } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { ClusterWriter } from './cluster.js'
import { EntryLow } from './constants.js'
import { ClusterType } from './l2-entry.js'
import type { L2Tables } from './l2-tables.js'
import type { Qcow2Metadata } from './metadata.js'
import { bitRange, type SubclusterEntries, SubclusterType } from './subclusters.js'
import { type Change, ZeroDiscard } from './zero-discard.js'

/** What becomes of one entry. */
interface NewEntry {
  high: number
  low: number
  zeroes: number
  allocated: number
  /** The host cluster is given up. */
  drops: boolean
}

/** {@link ZeroDiscard} for images with extended L2 entries or an external data file. */
export class SubclusterChanges extends ZeroDiscard {
  readonly #entries: SubclusterEntries

  constructor(meta: Qcow2Metadata, tables: L2Tables, writer: ClusterWriter, entries: SubclusterEntries) {
    super(meta, tables, writer)
    this.#entries = entries
  }

  #position(offset: number): number {
    return (this.tables.l2Index(offset) % this.meta.sliceEntries) * this.meta.geometry.entryBytes
  }

  protected override zeroData(start: number, end: number, flags: number): Wait {
    return this.meta.isRawData
      ? this.meta.data.writeZeroes(start, end - start, flags & ReqFlags.mayUnmap)
      : undefined
  }

  protected override unitEnd(start: number, end: number, how: Change): number {
    const { geometry, node } = this.meta
    // The end of the disk need not be one of subclusters, if the change covers the last cluster.
    const whole =
      how === 'discard' || how === 'forget' || (end >= node.length && start <= geometry.clusterStart(end - 1))
    return whole ? geometry.clusterEnd(end) : Math.ceil(end / this.#entries.size) * this.#entries.size
  }

  /** A part of a compressed cluster cannot become zeroes. */
  protected override limit(slice: CachedTable, start: number, stop: number): number {
    const { geometry } = this.meta
    const isCompressed = (offset: number) => {
      const at = this.#position(offset)
      const { view } = slice
      return this.#entries.clusterType(view.getUint32(at), view.getUint32(at + 4)) === ClusterType.compressed
    }
    const { clusterSize } = geometry
    if ((start % clusterSize !== 0 || stop - start < clusterSize) && isCompressed(start)) {
      return start
    }
    const last = geometry.clusterStart(stop)
    return stop !== last && isCompressed(last) ? last : stop
  }

  protected override isEmpty(slice: CachedTable, offset: number): boolean {
    const subcluster = Math.floor((offset % this.meta.geometry.clusterSize) / this.#entries.size)
    const type = this.#entries.type(slice.view, this.#position(offset), subcluster)
    return (
      type !== SubclusterType.normal && type !== SubclusterType.compressed && type !== SubclusterType.invalid
    )
  }

  protected override apply(slice: CachedTable, start: number, stop: number, how: Change): [number, number][] {
    const { view } = slice
    const { meta } = this
    const { clusterSize, entryBytes, extendedL2 } = meta.geometry
    const freed: [number, number][] = []
    let at = this.#position(start)
    for (let from = start; from < stop; at += entryBytes) {
      const cluster = from - (from % clusterSize)
      const to = Math.min(stop, cluster + clusterSize)
      const high = view.getUint32(at)
      const low = view.getUint32(at + 4)
      const entry = extendedL2
        ? this.#extended(view, at, from - cluster, to - cluster, how)
        : this.#plain(high, low, how)
      from = to
      const same =
        entry.high === high &&
        entry.low === low &&
        (!extendedL2 ||
          (entry.zeroes === this.#entries.zeroes(view, at) &&
            entry.allocated === this.#entries.allocated(view, at)))
      if (same) {
        continue
      }
      view.setUint32(at, entry.high)
      view.setUint32(at + 4, entry.low)
      if (extendedL2) {
        this.#entries.setBitmap(view, at, entry.zeroes, entry.allocated)
      }
      meta.l2.markDirty(slice)
      if (entry.drops) {
        freed.push([high, low])
      } else {
        this.keep(high, low, how)
      }
    }
    return freed
  }

  /** Whether a change takes the host cluster away from an entry of this type. */
  #drops(type: number, how: Change): boolean {
    if (type === ClusterType.unallocated || type === ClusterType.zeroPlain) {
      return false
    }
    if (how === 'forget' || type === ClusterType.compressed) {
      return true
    }
    return how !== 'zero' && !this.meta.discardNoUnref
  }

  /** The entry for bytes `[from, to)` of a cluster. */
  #extended(view: DataView, at: number, from: number, to: number, how: Change): NewEntry {
    const high = view.getUint32(at)
    const low = view.getUint32(at + 4)
    const zeroes = this.#entries.zeroes(view, at)
    const allocated = this.#entries.allocated(view, at)
    const { clusterSize } = this.meta.geometry
    const type = this.#entries.clusterType(high, low)
    if (how === 'forget') {
      return { high: 0, low: 0, zeroes: 0, allocated: 0, drops: this.#drops(type, how) }
    }
    if (to - from !== clusterSize) {
      const range = bitRange(from / this.#entries.size, to / this.#entries.size)
      return {
        high,
        low,
        zeroes: (zeroes | range) >>> 0,
        allocated: (allocated & ~range) >>> 0,
        drops: false,
      }
    }
    const owns = type !== ClusterType.unallocated
    if (how === 'discard' && !owns && !this.hasBacking) {
      return { high, low, zeroes, allocated, drops: false }
    }
    const drops = this.#drops(type, how)
    return {
      high: drops ? 0 : high,
      low: drops ? 0 : low,
      zeroes: 0xffffffff,
      allocated: 0,
      drops,
    }
  }

  /** A plain entry of an image with an external data file. */
  #plain(high: number, low: number, how: Change): NewEntry {
    const type = this.#entries.clusterType(high, low)
    const drops = this.#drops(type, how)
    const owns = type !== ClusterType.unallocated && type !== ClusterType.zeroPlain
    if (how === 'forget') {
      return { high: 0, low: 0, zeroes: 0, allocated: 0, drops }
    }
    if (how === 'discard' && !owns && !this.hasBacking) {
      return { high, low, zeroes: 0, allocated: 0, drops: false }
    }
    return {
      high: drops ? 0 : high,
      low: drops ? EntryLow.zero : (low | EntryLow.zero) >>> 0,
      zeroes: 0,
      allocated: 0,
      drops,
    }
  }
}
