import { EntryHigh, EntryLow, subclustersPerCluster } from './constants.js'
import type { Geometry } from './geometry.js'
import { ClusterType, hostOffset, isCopied } from './l2-entry.js'

/** What an L2 entry says about a part of its cluster; the first five are those of {@link ClusterType}. */
export const SubclusterType = {
  ...ClusterType,
  /** Not in this layer, although a host cluster stands by. */
  unallocatedAllocated: 5,
  /** A bitmap that says two things at once. */
  invalid: 6,
} as const

/** Bits `[from, to)` of a 32-bit word. */
export function bitRange(from: number, to: number): number {
  const upTo = to >= 32 ? 0xffffffff : 2 ** to - 1
  return (upTo & ~(2 ** from - 1)) >>> 0
}

/** The lowest set bit of a word, 32 for 0. */
export function lowestBit(word: number): number {
  return word === 0 ? 32 : 31 - Math.clz32(word & -word)
}

/**
 * Reads L2 entries of images with extended entries or an external data file, where an entry by itself
 * does not say all. Images with neither take the short way, `clusterType`.
 *
 * An extended entry is the plain one, then 32 bits that say which subclusters read as zeroes, then 32
 * that say which are allocated; the lowest bit is the first subcluster.
 */
export class SubclusterEntries {
  /** Subclusters of a cluster: 32, or 1 for plain entries. */
  readonly count: number
  readonly size: number
  readonly #extended: boolean
  readonly #external: boolean

  constructor(geometry: Geometry, external: boolean) {
    this.#extended = geometry.extendedL2
    this.#external = external
    this.count = geometry.extendedL2 ? subclustersPerCluster : 1
    this.size = geometry.subclusterSize
  }

  /** Type of the cluster as a whole: with extended entries never one of zeroes. */
  clusterType(high: number, low: number): number {
    if ((high & EntryHigh.compressed) !== 0) {
      return ClusterType.compressed
    }
    const hasOffset = (high & EntryHigh.offset) !== 0 || (low & EntryLow.offset) !== 0
    if ((low & EntryLow.zero) !== 0 && !this.#extended) {
      return hasOffset ? ClusterType.zeroAllocated : ClusterType.zeroPlain
    }
    // In a file of its own the first cluster has an offset like any other.
    return hasOffset || (this.#external && isCopied(high)) ? ClusterType.normal : ClusterType.unallocated
  }

  /** Whether writing to the cluster needs a new host cluster. */
  needsAllocation(high: number, low: number): boolean {
    const type = this.clusterType(high, low)
    return (type !== ClusterType.normal && type !== ClusterType.zeroAllocated) || !isCopied(high)
  }

  /** The word that says which subclusters are allocated; all of them for plain entries with a host cluster. */
  allocated(view: DataView, at: number): number {
    if (this.#extended) {
      return view.getUint32(at + 12)
    }
    const type = this.clusterType(view.getUint32(at), view.getUint32(at + 4))
    return type === ClusterType.unallocated || type === ClusterType.zeroPlain ? 0 : 1
  }

  /** The word that says which subclusters read as zeroes; extended entries only. */
  zeroes(view: DataView, at: number): number {
    return view.getUint32(at + 8)
  }

  setBitmap(view: DataView, at: number, zeroes: number, allocated: number): void {
    view.setUint32(at + 8, zeroes)
    view.setUint32(at + 12, allocated)
  }

  /** Type of subcluster `index` of the entry at byte `at` of a slice. */
  type(view: DataView, at: number, index: number): number {
    const cluster = this.clusterType(view.getUint32(at), view.getUint32(at + 4))
    if (!this.#extended || cluster === ClusterType.compressed) {
      return cluster
    }
    const zeroes = view.getUint32(at + 8)
    const allocated = view.getUint32(at + 12)
    const zero = ((zeroes >>> index) & 1) !== 0
    if (cluster === ClusterType.unallocated) {
      if (allocated !== 0) {
        return SubclusterType.invalid
      }
      return zero ? SubclusterType.zeroPlain : SubclusterType.unallocated
    }
    if ((zeroes & allocated) !== 0) {
      return SubclusterType.invalid
    }
    if (zero) {
      return SubclusterType.zeroAllocated
    }
    return ((allocated >>> index) & 1) !== 0 ? SubclusterType.normal : SubclusterType.unallocatedAllocated
  }

  /** Host offset of the entry at byte `at`, bytes. */
  host(view: DataView, at: number): number {
    return hostOffset(view.getUint32(at), view.getUint32(at + 4))
  }
}
