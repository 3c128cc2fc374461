import type { CachedTable } from '../../../formatkit/index.js'
import { ChainStatus, chainStatus, type IoNode, type RangeResult, ReqFlags } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { FreeReason } from './allocate.js'
import type { ClusterWriter } from './cluster.js'
import { EntryHigh, EntryLow, tableEntryBytes } from './constants.js'
import { ClusterType, clusterType, hostOffset } from './l2-entry.js'
import type { L2Tables } from './l2-tables.js'
import type { Qcow2Metadata } from './metadata.js'

/** What becomes of clusters. */
export type Change =
  /** Read as zeroes; keep their host clusters. */
  | 'zero'
  /** Read as zeroes; give their host clusters back. */
  | 'unmap'
  /** Contents are of no interest, but what lies below must not appear. */
  | 'discard'
  /** Not allocated any more, as if never written. */
  | 'forget'

/** Changes whole clusters without data: write-zeroes, discard, and cutting an image short. */
export class ZeroDiscard {
  protected readonly meta: Qcow2Metadata
  protected readonly tables: L2Tables
  readonly #writer: ClusterWriter

  /** Host clusters whose contents are of no interest any more, though they stay in use. */
  readonly #kept: number[] = []

  constructor(meta: Qcow2Metadata, tables: L2Tables, writer: ClusterWriter) {
    this.meta = meta
    this.tables = tables
    this.#writer = writer
  }

  protected get hasBacking(): boolean {
    return this.meta.node.backingNode !== undefined
  }

  /** See MapPath.zero. */
  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    const { geometry, node } = this.meta
    if (geometry.version < 3 && this.hasBacking) {
      // Version 2 has no zero clusters, and unallocated ones would show the backing file.
      return undefined
    }
    const unit = geometry.subclusterSize
    const head = offset % unit
    const end = offset + bytes
    const tail = end === node.length ? 0 : Math.ceil(end / unit) * unit - end
    if (head !== 0 || tail !== 0) {
      return this.#zeroPart(offset - head, head, tail, bytes, flags, out)
    }
    return this.#zeroWhole(offset, end, flags, out)
  }

  async #zeroWhole(offset: number, end: number, flags: number, out: RangeResult): Promise<void> {
    const unmap = (flags & ReqFlags.mayUnmap) !== 0
    const how = this.meta.geometry.version < 3 ? 'discard' : unmap ? 'unmap' : 'zero'
    const zeroed = this.zeroData(offset, end, flags)
    if (zeroed !== undefined) {
      await zeroed
    }
    let at = offset
    while (at < end) {
      const reached = await this.#changeSlice(at, end, how, false)
      if (reached === at) {
        break
      }
      at = reached
    }
    out.bytes = Math.min(at, end) - offset
  }

  /** Zeroes part of a (sub)cluster by zeroing all of it, if the rest reads as zeroes already. */
  async #zeroPart(
    unit: number,
    head: number,
    tail: number,
    bytes: number,
    flags: number,
    out: RangeResult,
  ): Promise<void> {
    const meta = this.meta
    const { subclusterSize } = meta.geometry
    const start = unit + head
    if (
      head + bytes + tail > subclusterSize ||
      !(await readsAsZero(meta.node, unit, head)) ||
      !(await readsAsZero(meta.node, start + bytes, tail))
    ) {
      return
    }
    const zeroed = this.zeroData(start, start + bytes, flags)
    if (zeroed !== undefined) {
      await zeroed
    }
    // A write may have come in between: look again, with nothing in flight and in one synchronous
    // block with the change.
    const unmap = meta.geometry.version < 3 ? 'discard' : (flags & ReqFlags.mayUnmap) !== 0 ? 'unmap' : 'zero'
    const changed = await this.#changeSlice(unit, unit + subclusterSize, unmap, true)
    out.bytes = changed === unit ? 0 : bytes
  }

  /** See MapPath.discard. */
  discard(offset: number, bytes: number, out: RangeResult): Wait {
    const { geometry, node } = this.meta
    const end = offset + bytes
    if (
      (geometry.version < 3 && this.hasBacking) ||
      offset % geometry.clusterSize !== 0 ||
      (end % geometry.clusterSize !== 0 && end !== node.length)
    ) {
      return undefined
    }
    return this.#discardWhole(offset, end, out)
  }

  async #discardWhole(offset: number, end: number, out: RangeResult): Promise<void> {
    const zeroed = this.zeroData(offset, end, ReqFlags.mayUnmap)
    if (zeroed !== undefined) {
      await zeroed
    }
    await this.change(offset, end, 'discard')
    out.bytes = end - offset
  }

  /** Changes all clusters that `[start, end)` touches; `start` is a cluster boundary. Lock not held. */
  async change(start: number, end: number, how: Change, reason?: FreeReason): Promise<void> {
    for (let at = start; at < end; ) {
      at = await this.#changeSlice(at, end, how, false, reason)
    }
  }

  /**
   * Changes the clusters from `start` on, at most to the end of the L2 slice. With `onlyEmpty` nothing
   * happens unless they hold no data. Returns how far it got.
   */
  async #changeSlice(
    start: number,
    end: number,
    how: Change,
    onlyEmpty: boolean,
    reason?: FreeReason,
  ): Promise<number> {
    const meta = this.meta
    const { clusterSize } = meta.geometry
    const span = meta.sliceEntries * clusterSize
    const stop = Math.min(this.unitEnd(start, end, how), start - (start % span) + span)
    for (;;) {
      // A write in flight copies old contents around its data: let it finish first.
      const busy = meta.node.allocations.wait(start, stop)
      if (busy !== undefined) {
        await busy
      }
      const reached = await meta.locked(async () => {
        if (this.#isMoot(start, how)) {
          return stop
        }
        const slice = await this.tables.makeWritable(start)
        try {
          if (meta.node.allocations.isLocked(start, stop)) {
            return -1
          }
          if (onlyEmpty && !this.isEmpty(slice, start)) {
            return start
          }
          const limit = this.limit(slice, start, stop)
          const freed = this.apply(slice, start, limit, how)
          if (how === 'forget') {
            meta.allocator.keepUntilUnlinked()
          }
          await this.#free(freed, reason ?? (how === 'forget' ? 'always' : 'request'))
          return limit
        } finally {
          meta.l2.release(slice)
        }
      })
      if (reached >= 0) {
        return reached
      }
    }
  }

  /** An external data file that can be read by itself gets the zeroes as well. */
  protected zeroData(_start: number, _end: number, _flags: number): Wait {
    return undefined
  }

  /** Where a change from `start` on that is to reach `end` ends. */
  protected unitEnd(_start: number, end: number, _how: Change): number {
    return this.meta.geometry.clusterEnd(end)
  }

  /** How far into `[start, stop)` the change is possible at all. */
  protected limit(_slice: CachedTable, _start: number, stop: number): number {
    return stop
  }

  /** Whether there is nothing to change because there is no L2 table. */
  #isMoot(start: number, how: Change): boolean {
    if (this.tables.exists(start)) {
      return false
    }
    return how === 'forget' || (how === 'discard' && !this.hasBacking)
  }

  protected isEmpty(slice: CachedTable, offset: number): boolean {
    const at = (this.tables.l2Index(offset) % this.meta.sliceEntries) * tableEntryBytes
    const type = clusterType(slice.view.getUint32(at), slice.view.getUint32(at + 4))
    return type !== ClusterType.normal && type !== ClusterType.compressed
  }

  /** Changes the entries for `[start, stop)`. Returns the entries whose host clusters are to be freed. */
  protected apply(slice: CachedTable, start: number, stop: number, how: Change): [number, number][] {
    const { view } = slice
    const meta = this.meta
    const { clusterSize } = meta.geometry
    const freed: [number, number][] = []
    let index = this.tables.l2Index(start) % meta.sliceEntries
    for (let at = start; at < stop; at += clusterSize, index++) {
      const place = index * tableEntryBytes
      const high = view.getUint32(place)
      const low = view.getUint32(place + 4)
      const type = clusterType(high, low)
      const owns = type !== ClusterType.unallocated && type !== ClusterType.zeroPlain
      let newHigh = high
      let newLow = low
      if (how === 'forget') {
        newHigh = 0
        newLow = 0
      } else if (how === 'discard' && !owns && !this.hasBacking) {
        continue
      } else if (
        (type === ClusterType.compressed || (how !== 'zero' && owns)) &&
        !(meta.discardNoUnref && type !== ClusterType.compressed)
      ) {
        newHigh = 0
        newLow = meta.geometry.version < 3 ? 0 : EntryLow.zero
      } else if (how === 'discard' && !owns) {
        newHigh = 0
        newLow = meta.geometry.version < 3 ? 0 : EntryLow.zero
      } else {
        newLow = (low | EntryLow.zero) >>> 0
      }
      if (newHigh === high && newLow === low) {
        continue
      }
      view.setUint32(place, newHigh)
      view.setUint32(place + 4, newLow)
      meta.l2.markDirty(slice)
      if (owns && (newHigh & EntryHigh.offset) === 0 && (newLow & EntryLow.offset) === 0) {
        freed.push([high, low])
      } else {
        this.keep(high, low, how)
      }
    }
    return freed
  }

  /** A cluster that the guest discards keeps its place, with the option `discard-no-unref`. */
  protected keep(high: number, low: number, how: Change): void {
    const host = hostOffset(high, low)
    if (this.meta.discardNoUnref && how !== 'zero' && (host !== 0 || this.meta.isExternal)) {
      this.#kept.push(host)
    }
  }

  async #free(freed: readonly [number, number][], reason: FreeReason): Promise<void> {
    const { allocator, geometry } = this.meta
    for (const host of this.#kept.splice(0)) {
      allocator.discardData(host, geometry.clusterSize, reason)
    }
    await this.#writer.freeEntries(freed, reason)
    if (allocator.unlinkedTooMany) {
      await this.meta.flushL2()
    }
    await allocator.passDiscards()
  }
}

/** Whether the guest sees zeroes in the range, as far as metadata tells. */
async function readsAsZero(node: IoNode, offset: number, bytes: number): Promise<boolean> {
  const end = Math.min(offset + bytes, node.length)
  const status = new ChainStatus()
  for (let at = offset; at < end; at += status.bytes) {
    await chainStatus(node, undefined, at, end - at, 'zero', status)
    if (!status.zero || status.bytes === 0) {
      return false
    }
  }
  return true
}
