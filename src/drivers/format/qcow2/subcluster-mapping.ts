import type { ExtentSink } from '../../../io/index.js'
import { hex } from './check-walk.js'
import { compressedCookie } from './compressed-cookie.js'
import { Mapping, noExtent } from './mapping.js'
import type { Qcow2Metadata } from './metadata.js'
import { type SubclusterEntries, SubclusterType } from './subclusters.js'

/** {@link Mapping} for images with extended L2 entries or an external data file. */
export class SubclusterMapping extends Mapping {
  readonly #entries: SubclusterEntries

  constructor(meta: Qcow2Metadata, entries: SubclusterEntries) {
    super(meta)
    this.#entries = entries
  }

  protected override walk(start: number, end: number, out: ExtentSink): number {
    const { meta } = this
    const { l1, l2, sliceEntries } = meta
    const { clusterSize, l1Span, entryBytes } = meta.geometry
    const entries = this.#entries
    let at = start
    let type: number = noExtent
    let extentStart = start
    let host = 0
    while (at < end) {
      const l1Index = Math.floor(at / l1Span)
      const tableOffset = l1Index < l1.size ? l1.tableOffset(l1Index) : 0
      if (tableOffset === 0) {
        if (type !== SubclusterType.unallocated) {
          if (type !== noExtent && !this.report(out, type, at - extentStart, host)) {
            return end
          }
          type = SubclusterType.unallocated
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
      const index = Math.floor((at - l1Index * l1Span) / clusterSize)
      const slice = l2.reach(meta.sliceOffset(tableOffset, index))
      if (slice === undefined) {
        if (type !== noExtent && !this.report(out, type, at - extentStart, host)) {
          return end
        }
        return at
      }
      const { view } = slice
      let entry = (index % sliceEntries) * entryBytes
      const sliceEnd = Math.min(
        end,
        at - (at % clusterSize) + (sliceEntries - (index % sliceEntries)) * clusterSize,
      )
      while (at < sliceEnd) {
        const inCluster = at % clusterSize
        const subcluster = Math.floor(inCluster / entries.size)
        const newType = entries.type(view, entry, subcluster)
        let newHost = 0
        let next = at - (at % entries.size) + entries.size
        if (newType === SubclusterType.compressed) {
          next = at - inCluster + clusterSize
          newHost = this.#cookie(view, entry, at - inCluster, tableOffset)
        } else if (newType > SubclusterType.zeroPlain) {
          newHost = this.#host(newType, view, entry, at - inCluster, tableOffset) + inCluster
        }
        next = Math.min(end, next)
        const continues =
          newType === type &&
          (newType === SubclusterType.unallocated ||
            newType === SubclusterType.zeroPlain ||
            (newType !== SubclusterType.compressed && newHost === host + (at - extentStart)))
        if (!continues) {
          if (type !== noExtent && !this.report(out, type, at - extentStart, host)) {
            return end
          }
          type = newType
          extentStart = at
          host = newHost
        }
        at = next
        if (at % clusterSize === 0) {
          entry += entryBytes
        }
      }
    }
    if (type !== noExtent) {
      this.report(out, type, at - extentStart, host)
    }
    return end
  }

  #place(guest: number, tableOffset: number): string {
    const { l1Span, clusterSize } = this.meta.geometry
    const index = Math.floor((guest % l1Span) / clusterSize)
    return `(L2 offset: ${hex(tableOffset)}, L2 index: ${hex(index)})`
  }

  #cookie(view: DataView, entry: number, guest: number, tableOffset: number): number {
    const { corruption, geometry, isExternal } = this.meta
    if (isExternal) {
      throw corruption.signal(
        `Compressed cluster entry found in image with external data file ${this.#place(guest, tableOffset)}`,
      )
    }
    return compressedCookie(view.getUint32(entry), view.getUint32(entry + 4), geometry)
  }

  /** The host cluster of the entry for guest cluster `guest`. Throws EIO if the entry is corrupt. */
  #host(type: number, view: DataView, entry: number, guest: number, tableOffset: number): number {
    const { corruption, geometry, isExternal } = this.meta
    if (type === SubclusterType.invalid) {
      throw corruption.signal(`Invalid cluster entry found  ${this.#place(guest, tableOffset)}`)
    }
    const host = this.#entries.host(view, entry)
    if (host % geometry.clusterSize !== 0) {
      throw corruption.signal(
        `Cluster allocation offset ${hex(host)} unaligned ${this.#place(guest, tableOffset)}`,
      )
    }
    if (isExternal && host !== guest) {
      const index = Math.floor((guest % geometry.l1Span) / geometry.clusterSize)
      throw corruption.signal(
        `External data file host cluster offset ${hex(host)} does not match guest cluster ` +
          `offset: ${hex(guest)}, L2 index: ${hex(index)})`,
      )
    }
    return host
  }
}
