import { extendedEntryBytes, Incompatible, subclustersPerCluster, tableEntryBytes } from './constants.js'
import type { Qcow2Header } from './header.js'

/** Host offsets have 56 bits in L1 and L2 entries. */
export const maxHostOffset = 2 ** 56 - 1

/** Sizes that follow from an image's header and never change while it is open. Bytes unless said. */
export class Geometry {
  readonly version: 2 | 3
  readonly clusterBits: number
  readonly clusterSize: number
  /** Bytes of an L2 entry: 8, or 16 with an allocation bitmap. */
  readonly entryBytes: number
  readonly extendedL2: boolean
  /** What an L2 entry can tell apart: a 32nd of a cluster with extended entries, else a cluster. */
  readonly subclusterSize: number
  /** Entries of an L2 table. */
  readonly l2Entries: number
  /** Guest bytes an L1 entry stands for. */
  readonly l1Span: number
  /** Refcounts in a refcount block. */
  readonly blockEntries: number
  readonly refcountOrder: number
  /** Offsets of compressed clusters have this many bits; the sector count stands above them. */
  readonly compressedShift: number

  constructor(header: Qcow2Header) {
    this.version = header.version
    this.clusterBits = header.clusterBits
    this.clusterSize = header.clusterSize
    this.extendedL2 = (header.incompatible & Incompatible.extendedL2) !== 0
    this.entryBytes = this.extendedL2 ? extendedEntryBytes : tableEntryBytes
    this.subclusterSize = this.extendedL2 ? header.clusterSize / subclustersPerCluster : header.clusterSize
    this.l2Entries = header.clusterSize / this.entryBytes
    this.l1Span = header.clusterSize * this.l2Entries
    this.refcountOrder = header.refcountOrder
    this.blockEntries = (header.clusterSize * 8) / 2 ** header.refcountOrder
    this.compressedShift = 62 - (header.clusterBits - 8)
  }

  /** Start of the cluster that holds `offset`. */
  clusterStart(offset: number): number {
    return offset - (offset % this.clusterSize)
  }

  /** End of the last cluster that `[…, end)` touches. */
  clusterEnd(end: number): number {
    return Math.ceil(end / this.clusterSize) * this.clusterSize
  }

  /** Clusters that `bytes` bytes from a cluster's start touch. */
  clusters(bytes: number): number {
    return Math.ceil(bytes / this.clusterSize)
  }

  /** L1 entries that `size` guest bytes need. */
  l1EntriesFor(size: number): number {
    return Math.ceil(size / this.l1Span)
  }
}
