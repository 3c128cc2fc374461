import { EntryHigh, EntryLow } from './constants.js'

/** What an L2 entry says about its cluster. */
export const ClusterType = {
  unallocated: 0,
  /** Reads as zeroes; no host cluster. */
  zeroPlain: 1,
  /** Reads as zeroes; a host cluster stands by. */
  zeroAllocated: 2,
  normal: 3,
  compressed: 4,
} as const

/** Type of the entry with these upper and lower 32 bits. */
export function clusterType(high: number, low: number): number {
  if ((high & EntryHigh.compressed) !== 0) {
    return ClusterType.compressed
  }
  const hasHost = (high & EntryHigh.offset) !== 0 || (low & EntryLow.offset) !== 0
  if ((low & EntryLow.zero) !== 0) {
    return hasHost ? ClusterType.zeroAllocated : ClusterType.zeroPlain
  }
  return hasHost ? ClusterType.normal : ClusterType.unallocated
}

/** Host offset in an L1 or uncompressed L2 entry, bytes; beyond 2^53 only as exact as a double. */
export function hostOffset(high: number, low: number): number {
  return (high & EntryHigh.offset) * 0x100000000 + ((low & EntryLow.offset) >>> 0)
}

/** Whether the host cluster has this one reference, so that it may be written in place. */
export function isCopied(high: number): boolean {
  return (high & EntryHigh.copied) !== 0
}

/** Whether writing to the cluster needs a new host cluster. */
export function needsAllocation(high: number, low: number): boolean {
  const type = clusterType(high, low)
  return (type !== ClusterType.normal && type !== ClusterType.zeroAllocated) || !isCopied(high)
}
