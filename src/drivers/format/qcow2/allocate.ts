import { codeOf, ioError, strerror } from '../../../errors/index.js'
import { IndexRanges } from '../../../formatkit/index.js'
import type { IoNode } from '../../../io/index.js'
import { maxHostOffset } from './geometry.js'
import type { Qcow2Metadata } from './metadata.js'

/** Why clusters become free; decides whether the file below is told (options `pass-discard-*`). */
export type FreeReason = 'never' | 'always' | 'request' | 'snapshot' | 'other'

export type DiscardPolicy = Readonly<Record<FreeReason, boolean>>

/** Runs of clusters waiting for {@link Qcow2Metadata.flushL2}; more than this and one is due. */
export const maxUnlinkedRuns = 4096

/**
 * Finds and frees host clusters: first fit from a moving index, in the order that QEMU has.
 *
 * A freed cluster is used again only when two things are true: the L2 table on disk does not point
 * to it any more, and no request that was in flight when it was freed can still touch it. Until then
 * its refcount is 0 but the search passes it by, or flushes first.
 *
 * `async` methods are called with the metadata lock held, `try…` ones while it is free or held.
 */
export class ClusterAllocator {
  readonly #meta: Qcow2Metadata
  discards: DiscardPolicy
  /** Where the search starts: everything below is in use, or was when it was looked at. Clusters. */
  #next = 0
  /** Where the next compressed cluster goes: the unused rest of a cluster. 0: none. Bytes. */
  #nextByte = 0
  /** Freed, but a request in flight may still read or write it. */
  readonly #held = new IndexRanges()
  /** Freed, but the L2 table on disk may still point to it. */
  readonly #unlinked = new IndexRanges()
  /** Never to be used: a failed write may have made something on disk point to it. */
  readonly #banned = new IndexRanges()
  /** Freed, and the file shall be told. */
  readonly #toDiscard = new IndexRanges()
  /** Ranges of an external data file that it shall be told of: clusters of its own. */
  readonly #dataToDiscard = new IndexRanges()
  /** Among those are compressed clusters: while the L2 table on disk points there, they must stay readable. */
  #discardNeedsFlush = false

  constructor(meta: Qcow2Metadata, discards: DiscardPolicy) {
    this.#meta = meta
    this.discards = discards
  }

  /** Lets the search begin at `cluster` if it would begin later. */
  searchFrom(cluster: number): void {
    this.#next = Math.min(this.#next, cluster)
  }

  /** First cluster that the next search looks at. */
  get searchStart(): number {
    return this.#next
  }

  /** Starts over: another part of the driver has changed refcounts in the file. */
  reset(): void {
    this.#next = 0
    this.#nextByte = 0
  }

  /** Excludes clusters from use for as long as the image is open. */
  ban(first: number, count: number): void {
    this.#banned.add(first, first + count)
  }

  /** First cluster behind all that are free but must not be used now. */
  get blockedEnd(): number {
    return Math.max(this.#held.end, this.#banned.end)
  }

  #isBlocked(cluster: number): boolean {
    return (
      (!this.#held.isEmpty && this.#held.has(cluster)) || (!this.#banned.isEmpty && this.#banned.has(cluster))
    )
  }

  /** Clusters go into use: the file must not be told any more that they are free. */
  taken(first: number, count: number): void {
    if (!this.#toDiscard.isEmpty) {
      this.#toDiscard.remove(first, first + count)
    }
  }

  /**
   * Clusters of metadata look free only in corrupt images: they must not be used. Cluster 0 is left to
   * the callers, who have their own words for it.
   */
  #checkPlace(first: number, count: number): void {
    const { clusterSize } = this.#meta.geometry
    if (count !== 0 && first !== 0) {
      this.#meta.overlap?.check(first * clusterSize, count * clusterSize)
    }
  }

  /**
   * Allocates `count` clusters in a row and counts them, if everything needed is in memory.
   *
   * @returns their offset in bytes, or -1: {@link allocate} is needed
   */
  tryAllocate(count: number): number {
    const { refcounts, file } = this.#meta
    if (file.debug !== undefined) {
      return -1
    }
    let at = this.#next
    let run = 0
    while (run < count) {
      const free = refcounts.nextFree(at)
      if (free < 0 || !refcounts.hasBlock(at)) {
        return -1
      }
      if (free !== at) {
        at = free
        run = 0
        continue
      }
      if (this.#isBlocked(at)) {
        run = 0
      } else if (!this.#unlinked.isEmpty && this.#unlinked.has(at)) {
        return -1
      } else {
        run++
      }
      at++
    }
    if (!refcounts.tryIncrease(at - count, count)) {
      return -1
    }
    this.#next = at
    this.taken(at - count, count)
    this.#checkPlace(at - count, count)
    return (at - count) * this.#meta.geometry.clusterSize
  }

  /**
   * Allocates up to `count` clusters in a row at exactly `offset`, if everything needed is in memory.
   *
   * @returns how many were free, or -1: {@link allocateAt} is needed
   */
  tryAllocateAt(offset: number, count: number): number {
    const { refcounts, geometry } = this.#meta
    const first = offset / geometry.clusterSize
    let run = 0
    while (run < count) {
      const refcount = refcounts.peek(first + run)
      if (refcount < 0 || !refcounts.hasBlock(first + run)) {
        return -1
      }
      if (refcount !== 0 || this.#isBlocked(first + run)) {
        break
      }
      if (this.#unlinked.has(first + run)) {
        return -1
      }
      run++
    }
    if (run !== 0 && !refcounts.tryIncrease(first, run)) {
      return -1
    }
    this.taken(first, run)
    this.#checkPlace(first, run)
    return run
  }

  /** Allocates `count` clusters in a row and counts them. Returns their offset in bytes. */
  async allocate(count: number, maxOffset = maxHostOffset): Promise<number> {
    const stop = this.#meta.event('cluster_alloc')
    if (stop !== undefined) {
      await stop
    }
    for (;;) {
      const first = await this.findFree(count, maxOffset)
      if (await this.#meta.refcounts.increase(first, count)) {
        this.#checkPlace(first, count)
        return first * this.#meta.geometry.clusterSize
      }
    }
  }

  /** Allocates up to `count` clusters in a row at exactly `offset`; returns how many were free. */
  async allocateAt(offset: number, count: number): Promise<number> {
    const { refcounts, geometry } = this.#meta
    const first = offset / geometry.clusterSize
    for (;;) {
      let run = 0
      while (run < count) {
        if ((await refcounts.get(first + run)) !== 0 || this.#isBlocked(first + run)) {
          break
        }
        if (this.#unlinked.has(first + run)) {
          await this.#meta.flushL2()
        }
        run++
      }
      if (run === 0 || (await refcounts.increase(first, run))) {
        this.taken(first, run)
        this.#checkPlace(first, run)
        return run
      }
    }
  }

  /** Finds `count` free clusters in a row without counting them; the search goes on behind them. */
  async findFree(count: number, maxOffset = maxHostOffset): Promise<number> {
    const { refcounts, geometry } = this.#meta
    let at = this.#next
    let run = 0
    while (run < count) {
      const free = refcounts.nextFree(at)
      if (free < 0) {
        await refcounts.bring(at)
        continue
      }
      if (free !== at) {
        at = free
        run = 0
        continue
      }
      if (this.#isBlocked(at)) {
        run = 0
      } else {
        if (this.#unlinked.has(at)) {
          await this.#meta.flushL2()
        }
        run++
      }
      at++
    }
    if (at - 1 > Math.floor(maxOffset / geometry.clusterSize)) {
      throw ioError('EFBIG')
    }
    this.#next = at
    this.taken(at - count, count)
    return at - count
  }

  /**
   * Allocates `bytes` ≤ cluster size for a compressed cluster, behind the previous one if that is
   * possible. Every cluster it touches gets a reference.
   */
  async allocateBytes(bytes: number): Promise<number> {
    const stop = this.#meta.event('cluster_alloc_bytes')
    if (stop !== undefined) {
      await stop
    }
    const { refcounts, geometry, corruption } = this.#meta
    const { clusterSize } = geometry
    const maxOffset = Math.min(2 ** geometry.compressedShift - 1, maxHostOffset)
    let offset = this.#nextByte
    if (offset !== 0 && !(await refcounts.canIncrease(Math.floor(offset / clusterSize)))) {
      offset = 0
    }
    let room = offset === 0 ? 0 : clusterSize - (offset % clusterSize)
    for (;;) {
      if (room < bytes) {
        const next = (await this.findFree(1, maxOffset)) * clusterSize
        if (next === 0) {
          throw corruption.signal('Preventing invalid allocation of compressed cluster at offset 0')
        }
        if (offset === 0 || geometry.clusterEnd(offset) !== next) {
          offset = next
          room = clusterSize
        } else {
          room += clusterSize
        }
      }
      const first = Math.floor(offset / clusterSize)
      const last = Math.floor((offset + bytes - 1) / clusterSize)
      if (await refcounts.increase(first, last - first + 1)) {
        break
      }
      offset = 0
      room = 0
    }
    this.#meta.overlap?.check(offset, bytes)
    const end = offset + bytes
    this.#nextByte = end % clusterSize === 0 ? 0 : end
    return offset
  }

  /**
   * Takes a reference from the clusters that `[offset, +bytes)` touches. What cannot be freed is
   * leaked, with a word to the user: the request at hand has succeeded all the same.
   *
   * @param fromL2 an L2 entry pointed there until now, so its change must reach the disk first
   */
  async free(offset: number, bytes: number, reason: FreeReason, fromL2: boolean): Promise<void> {
    if (bytes === 0) {
      return
    }
    const stop = this.#meta.event('cluster_free')
    if (stop !== undefined) {
      await stop
    }
    const { clusterSize } = this.#meta.geometry
    const first = Math.floor(offset / clusterSize)
    const end = Math.floor((offset + bytes - 1) / clusterSize) + 1
    try {
      if (fromL2) {
        const wait = this.#meta.blocks.orderAfter(this.#meta.l2)
        if (wait !== undefined) {
          await wait
        }
      }
      await this.#meta.refcounts.decrease(first, end - first, (start, stop) => {
        if (fromL2) {
          this.#unlinked.add(start, stop)
        }
        this.freed(start, stop - start, reason, fromL2)
      })
    } catch (error) {
      this.#meta.corruption.tell(`qcow2_free_clusters failed: ${strerror(codeOf(error))}`)
    }
  }

  /** What is freed next must stay readable until no L2 table on disk points to it: something else would show. */
  keepUntilUnlinked(): void {
    this.#discardNeedsFlush = true
  }

  /** {@link free} for a compressed cluster. */
  async freeCompressed(offset: number, bytes: number, reason: FreeReason): Promise<void> {
    this.#discardNeedsFlush ||= this.discards[reason]
    await this.free(offset, bytes, reason, true)
  }

  /**
   * Clusters have lost their last reference. Guest data may still be read or written by requests in
   * flight and is not reused before these are done; tables (`guestData` false) are nobody's target.
   */
  freed(first: number, count: number, reason: FreeReason, guestData: boolean): void {
    const { clusterSize } = this.#meta.geometry
    const end = first + count
    const open = Math.floor(this.#nextByte / clusterSize)
    if (first <= open && open < end) {
      this.#nextByte = 0
    }
    if (this.discards[reason]) {
      this.#toDiscard.add(first, end)
    }
    if (guestData) {
      this.#held.add(first, end)
      this.#meta.node.requests.afterCurrent(() => {
        this.#held.remove(first, end)
        this.searchFrom(first)
      })
    }
    this.searchFrom(first)
  }

  /**
   * Guest data at `offset` is of no interest any more, but its place stays what it is: in an external
   * data file, or in a cluster that the guest keeps. The file is told with the next {@link passDiscards}.
   */
  discardData(offset: number, bytes: number, reason: FreeReason): void {
    const { clusterSize } = this.#meta.geometry
    if (this.discards[reason] && offset % clusterSize === 0) {
      this.#dataToDiscard.add(offset / clusterSize, (offset + bytes) / clusterSize)
    }
  }

  /** Tells the file below about the clusters freed since the last time. Advisory: failures do not matter. */
  async passDiscards(): Promise<void> {
    if (!this.#dataToDiscard.isEmpty) {
      await this.#discardRuns(this.#meta.data, takeRuns(this.#dataToDiscard))
    }
    if (this.#toDiscard.isEmpty) {
      return
    }
    const runs = takeRuns(this.#toDiscard)
    if (this.#discardNeedsFlush) {
      await this.#meta.flushL2()
      this.#discardNeedsFlush = false
    }
    await this.#discardRuns(this.#meta.file, runs)
  }

  async #discardRuns(file: IoNode, runs: readonly [number, number][]): Promise<void> {
    const { geometry } = this.#meta
    for (const [start, end] of runs) {
      try {
        const wait = file.discard(start * geometry.clusterSize, (end - start) * geometry.clusterSize)
        if (wait !== undefined) {
          await wait
        }
      } catch {
        // The clusters are free either way.
      }
    }
  }

  /** What L2 tables say is durable: clusters they no longer point to may be used again. */
  unlinkDurable(): void {
    this.#unlinked.clear()
  }

  /** Whether so much waits for the L2 tables to be durable that it should happen now. */
  get unlinkedTooMany(): boolean {
    return this.#unlinked.runs > maxUnlinkedRuns
  }
}

/** Empties `ranges` and returns what was in them. */
function takeRuns(ranges: IndexRanges): [number, number][] {
  const runs: [number, number][] = []
  ranges.forEach((start, end) => {
    runs.push([start, end])
  })
  ranges.clear()
  return runs
}
