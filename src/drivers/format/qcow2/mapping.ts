import { codeOf } from '../../../errors/index.js'
import { allocatedSize } from '../../../graph/index.js'
import { ExtentFlags, type ExtentSink } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { hex } from './check-walk.js'
import { compressedCookie } from './compressed-cookie.js'
import { EntryLow, tableEntryBytes } from './constants.js'
import { ClusterType, clusterType, hostOffset } from './l2-entry.js'
import type { Qcow2Metadata } from './metadata.js'
import { SubclusterType } from './subclusters.js'

/** Extents being gathered: none yet. */
export const noExtent = -1

/** Guest to host: walks the L1 and L2 tables and reports extents. */
export class Mapping {
  protected readonly meta: Qcow2Metadata
  /** Tables are loaded and {@link #dataFlags} is known. */
  #ready = false
  #dataFlags = 0

  constructor(meta: Qcow2Metadata) {
    this.meta = meta
  }

  /** See MapPath.resolveRead. */
  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const end = offset + bytes
    if (!this.#ready) {
      return this.#resolveSlow(offset, end, out)
    }
    const reached = this.walk(offset, end, out)
    return reached >= end ? undefined : this.#resolveSlow(reached, end, out)
  }

  async #resolveSlow(offset: number, end: number, out: ExtentSink): Promise<void> {
    const meta = this.meta
    if (!this.#ready) {
      await meta.locked(() => this.#prepare())
    }
    let at = this.walk(offset, end, out)
    while (at < end) {
      const slice = await meta.loadForRead(this.#sliceAt(at))
      try {
        at = this.walk(at, end, out)
      } finally {
        meta.l2.release(slice)
      }
    }
  }

  async #prepare(): Promise<void> {
    if (!this.meta.loaded) {
      await this.meta.load()
    }
    if (!this.#ready) {
      this.#dataFlags = (await this.#isPreallocated()) ? ExtentFlags.recurse : 0
      this.#ready = true
    }
  }

  /** Where the slice for `offset` stands; its L1 entry is valid and set. */
  #sliceAt(offset: number): number {
    const { geometry, l1 } = this.meta
    const l1Index = Math.floor(offset / geometry.l1Span)
    const l2Index = Math.floor((offset % geometry.l1Span) / geometry.clusterSize)
    return this.meta.sliceOffset(l1.tableOffset(l1Index), l2Index)
  }

  /**
   * Reports extents from `start` on. Returns where it had to stop because an L2 slice is not at hand,
   * or `end` if all is said or no more is wanted.
   */
  protected walk(start: number, end: number, out: ExtentSink): number {
    const meta = this.meta
    const { l1, l2 } = meta
    const { clusterSize, l1Span } = meta.geometry
    const sliceEntries = meta.sliceEntries
    let at = start
    let type = noExtent
    let extentStart = start
    let host = 0
    while (at < end) {
      const l1Index = Math.floor(at / l1Span)
      const tableOffset = l1Index < l1.size ? l1.tableOffset(l1Index) : 0
      if (tableOffset === 0) {
        if (type !== ClusterType.unallocated) {
          if (type !== noExtent && !this.report(out, type, at - extentStart, host)) {
            return end
          }
          type = ClusterType.unallocated
          extentStart = at
        }
        at = Math.min(end, (l1Index + 1) * l1Span)
        continue
      }
      if (tableOffset % clusterSize !== 0) {
        throw meta.corruption.signal(
          `L2 table offset ${hex(tableOffset)} unaligned (L1 index: ${hex(l1Index)})`,
        )
      }
      let index = Math.floor((at - l1Index * l1Span) / clusterSize)
      const slice = l2.reach(meta.sliceOffset(tableOffset, index))
      if (slice === undefined) {
        if (type !== noExtent && !this.report(out, type, at - extentStart, host)) {
          return end
        }
        return at
      }
      const view = slice.view
      const stop = index - (index % sliceEntries) + sliceEntries
      for (; index < stop && at < end; index++) {
        const entry = (index % sliceEntries) * tableEntryBytes
        const high = view.getUint32(entry)
        const low = view.getUint32(entry + 4)
        const newType = clusterType(high, low)
        const inCluster = at % clusterSize
        let newHost = 0
        if (newType === ClusterType.compressed) {
          newHost = compressedCookie(high, low, meta.geometry)
        } else if (newType !== ClusterType.unallocated) {
          newHost = this.#checkedHost(newType, high, low, tableOffset, index)
          newHost += newHost === 0 ? 0 : inCluster
        }
        const next = Math.min(end, at - inCluster + clusterSize)
        const continues =
          newType === type &&
          (newType === ClusterType.unallocated ||
            newType === ClusterType.zeroPlain ||
            (newType !== ClusterType.compressed && newHost === host + (at - extentStart)))
        if (!continues) {
          if (type !== noExtent && !this.report(out, type, at - extentStart, host)) {
            return end
          }
          type = newType
          extentStart = at
          host = newHost
        }
        at = next
      }
    }
    if (type !== noExtent) {
      this.report(out, type, at - extentStart, host)
    }
    return end
  }

  protected report(out: ExtentSink, type: number, bytes: number, host: number): boolean {
    switch (type) {
      case ClusterType.normal:
        return out.data(
          bytes,
          this.meta.data,
          host,
          this.meta.crypto === undefined ? this.#dataFlags : ExtentFlags.encoded,
        )
      case ClusterType.compressed:
        return out.encoded(bytes, host)
      case ClusterType.zeroPlain:
        return out.zero(bytes)
      case ClusterType.zeroAllocated:
        // What an encrypted image holds at an offset is of no use to anybody else.
        return this.meta.crypto === undefined ? out.zero(bytes, this.meta.data, host) : out.zero(bytes)
      case SubclusterType.unallocatedAllocated:
        return this.meta.crypto === undefined
          ? out.unallocated(bytes, this.meta.data, host)
          : out.unallocated(bytes)
      default:
        return out.unallocated(bytes)
    }
  }

  /** The host offset of an uncompressed entry, 0 for plain zeroes. Throws EIO if the entry is corrupt. */
  #checkedHost(type: number, high: number, low: number, tableOffset: number, index: number): number {
    const { geometry, corruption } = this.meta
    if (geometry.version < 3 && (low & EntryLow.zero) !== 0) {
      throw corruption.signal(
        `Zero cluster entry found in pre-v3 image (L2 offset: ${hex(tableOffset)}, L2 index: ${hex(index)})`,
      )
    }
    if (type === ClusterType.zeroPlain) {
      return 0
    }
    const host = hostOffset(high, low)
    if (host % geometry.clusterSize !== 0) {
      throw corruption.signal(
        `Cluster allocation offset ${hex(host)} unaligned ` +
          `(L2 offset: ${hex(tableOffset)}, L2 index: ${hex(index)})`,
      )
    }
    return host
  }

  /**
   * Whether much of what the refcounts say is in use occupies no space in the file: then metadata was
   * preallocated, and only the file knows what is really there.
   */
  async #isPreallocated(): Promise<boolean> {
    const { file, refcounts, geometry } = this.meta
    let occupied: number
    try {
      occupied = await allocatedSize(file)
    } catch (error) {
      if (codeOf(error) === 'EIO') {
        throw error
      }
      return false
    }
    const clusters = Math.floor(occupied / geometry.clusterSize)
    const threshold = Math.max(Math.floor((clusters * 10) / 9), clusters + 2)
    const end = Math.min(geometry.clusters(file.length), refcounts.clusters)
    let used = 0
    for (let at = 0; at < end && used < threshold; at += geometry.blockEntries) {
      if (end - at + used < threshold) {
        return false
      }
      used += await refcounts.countUsed(at, Math.min(end, at + geometry.blockEntries))
    }
    return used >= threshold
  }
}
