import { blockError, codeOf, ioError, isBlockError } from '../../../errors/index.js'
import type { BlockChild, CheckFix, CheckResult } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { readBitmapDirectory } from './bitmap-directory.js'
import { readBitmapClusters } from './bitmap-table.js'
import { countPageClusters, ReferenceCounts, StoredRefcounts } from './check-counts.js'
import { CheckWalk, hex } from './check-walk.js'
import { maxL1Bytes, maxSnapshots, snapshotHeaderBytes, tableEntryBytes } from './constants.js'
import { readInside } from './file-read.js'
import type { Qcow2Header } from './header.js'
import { readSnapshotTable, type SnapshotTable } from './snapshot-table.js'

/** What a check needs of an open image. */
export interface Qcow2Layout {
  readonly header: Qcow2Header
  readonly file: BlockChild
}

/** A check that could not be finished. */
export interface CheckFailure {
  /** What it found until then. */
  readonly partial: CheckResult
  /** Text that QEMU prints after the program's name, before the partial messages. */
  readonly report: string | undefined
}

/** More clusters than this QEMU does not check. */
const maxCheckedClusters = 0x7fffffff

/**
 * Checks the metadata of an image: every reference is counted and compared with the refcounts, and
 * the COPIED flags with both. Messages, their order and the counts are those of `qemu-img check`.
 *
 * Reads the file itself, so whatever the driver caches must have been written back.
 *
 * @param fix must be empty: repairs are not part of this release
 * @param signal aborts the check with ECANCELED
 * @throws BlockError if the check cannot go on; what it found until then is the `cause`, as
 *   {@link CheckFailure}
 */
export async function checkImage(
  image: Qcow2Layout,
  fix: CheckFix,
  signal?: AbortSignal,
): Promise<CheckResult> {
  if (fix.leaks || fix.errors) {
    throw blockError('ENOTSUP', 'Repairing qcow2 images is not supported by this version')
  }
  const check = new ImageCheck(image, signal)
  try {
    await check.run()
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    const failure: CheckFailure = { partial: check.result, report: check.report }
    throw blockError(error.code, error.message, { hint: error.hint, cause: failure })
  }
  return check.result
}

class ImageCheck {
  readonly #header: Qcow2Header
  readonly #file: IoNode
  readonly #signal: AbortSignal | undefined
  readonly #slice = new TimeSlice()
  readonly result: CheckResult
  report: string | undefined

  constructor(image: Qcow2Layout, signal: AbortSignal | undefined) {
    this.#header = image.header
    this.#file = image.file.node
    this.#signal = signal
    this.result = {
      corruptions: 0,
      leaks: 0,
      corruptionsFixed: 0,
      leaksFixed: 0,
      checkErrors: 0,
      imageEndOffset: 0,
      totalClusters: Math.ceil(image.header.size / image.header.clusterSize),
      allocatedClusters: 0,
      fragmentedClusters: 0,
      compressedClusters: 0,
      messages: [],
    }
  }

  #corrupt(message: string): void {
    this.result.corruptions++
    this.result.messages.push(message)
  }

  async #breathe(): Promise<void> {
    if (this.#signal?.aborted === true) {
      throw ioError('ECANCELED')
    }
    const wait = this.#slice.breathe()
    if (wait !== undefined) {
      await wait
    }
  }

  async run(): Promise<void> {
    const table = await this.#readSnapshots()
    const incomplete = this.#incompleteSnapshots(table)
    const { clusterSize, clusterBits, refcountOrder, refcountTableOffset, refcountTableClusters } =
      this.#header
    const clusters = Math.ceil(this.#file.length / clusterSize)
    if (clusters > maxCheckedClusters) {
      this.result.checkErrors++
      throw ioError('EFBIG')
    }
    const counts = new ReferenceCounts(refcountOrder, clusters)
    const walk = new CheckWalk(this.#header, this.#file, counts, this.result, () => this.#breathe())
    const stored = new StoredRefcounts(
      this.#file,
      await readInside(this.#file, refcountTableOffset, refcountTableClusters * clusterSize),
      clusterBits,
      refcountOrder,
      (index, offset) => {
        this.result.messages.push(
          `qcow2: Image is corrupt: Refblock offset ${hex(offset)} unaligned (reftable index: ${hex(index)}); ` +
            'further non-fatal corruption events will be suppressed',
        )
      },
    )
    await this.#countReferences(walk, table, stored)
    const last = await this.#compare(counts, stored)
    await walk.checkCopiedFlags(stored)
    this.result.imageEndOffset = (last + 1) * clusterSize
    this.result.corruptions += incomplete
  }

  /** The snapshot table, checked as the open would have done had it not been for a check. */
  async #readSnapshots(): Promise<SnapshotTable> {
    const { snapshotCount, snapshotsOffset, clusterSize } = this.#header
    const fail = (code: 'EFBIG' | 'EINVAL', text: string) => {
      this.result.checkErrors++
      this.report = text
      if (code === 'EFBIG') {
        const over = snapshotCount - maxSnapshots
        this.result.messages.push(
          `You can force-remove all ${over} overhanging snapshots with qemu-img check -r all`,
        )
      }
      return ioError(code)
    }
    if (snapshotCount > maxSnapshots) {
      throw fail('EFBIG', 'ERROR snapshot table too large')
    }
    if (
      snapshotsOffset % clusterSize !== 0 ||
      snapshotsOffset > 2 ** 63 - 1 - snapshotCount * snapshotHeaderBytes
    ) {
      throw fail('EINVAL', 'ERROR snapshot table offset invalid')
    }
    try {
      return await readSnapshotTable(this.#file, this.#header)
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      this.result.checkErrors++
      this.report = `ERROR failed to read the snapshot table: ${error.message}`
      if (error.hint !== undefined) {
        this.result.messages.push(error.hint)
      }
      throw ioError(error.code)
    }
  }

  /** Version 3 wants VM state size and disk size in every entry. Returns how many lack them. */
  #incompleteSnapshots(table: SnapshotTable): number {
    if (this.#header.version < 3) {
      return 0
    }
    let count = 0
    table.snapshots.forEach((snapshot, index) => {
      if (snapshot.extraDataBytes < 16) {
        count++
        this.result.messages.push(`ERROR snapshot table entry ${index} is incomplete`)
      }
    })
    return count
  }

  async #countReferences(walk: CheckWalk, table: SnapshotTable, stored: StoredRefcounts): Promise<void> {
    const header = this.#header
    walk.count(0, header.clusterSize)
    await walk.countTree(header.l1TableOffset, header.l1Size, true)
    for (const snapshot of table.snapshots) {
      const name = `ERROR snapshot ${snapshot.id} (${snapshot.name})`
      if (snapshot.l1TableOffset % BigInt(header.clusterSize) !== 0n) {
        this.#corrupt(
          `${name} l1_offset=${hex(snapshot.l1TableOffset)}: L1 table is not cluster aligned; ` +
            'snapshot table entry corrupted',
        )
      } else if (snapshot.l1Size > maxL1Bytes / tableEntryBytes) {
        this.#corrupt(
          `${name} l1_size=${hex(snapshot.l1Size)}: L1 table is too large; snapshot table entry corrupted`,
        )
      } else {
        await walk.countTree(Number(snapshot.l1TableOffset), snapshot.l1Size, false)
      }
    }
    walk.count(header.snapshotsOffset, table.bytes)
    walk.count(header.refcountTableOffset, header.refcountTableClusters * header.clusterSize)
    if (header.crypto !== undefined) {
      walk.count(header.crypto.offset, header.crypto.length)
    }
    await this.#countBitmaps(walk)
    this.#countRefcountBlocks(walk, stored)
  }

  async #countBitmaps(walk: CheckWalk): Promise<void> {
    const header = this.#header
    if (header.bitmaps === undefined) {
      return
    }
    walk.count(header.bitmaps.directoryOffset, header.bitmaps.directorySize)
    try {
      for (const bitmap of await readBitmapDirectory(this.#file, header)) {
        walk.count(bitmap.tableOffset, bitmap.tableSize * tableEntryBytes)
        for (const offset of await readBitmapClusters(this.#file, header, bitmap)) {
          walk.count(offset, header.clusterSize)
        }
        await this.#breathe()
      }
    } catch (error) {
      this.result.corruptions++
      throw ioError(codeOf(error))
    }
  }

  #countRefcountBlocks(walk: CheckWalk, stored: StoredRefcounts): void {
    const { clusterSize, clusterBits } = this.#header
    for (let i = 0; i < stored.tableSize; i++) {
      const entry = stored.entry(i)
      if (entry === 0n) {
        continue
      }
      const offset = entry & ~511n
      const cluster = offset >> BigInt(clusterBits)
      if (entry !== offset) {
        this.#corrupt(`ERROR refcount table entry ${i} has reserved bits set`)
      } else if (offset % BigInt(clusterSize) !== 0n) {
        this.#corrupt(`ERROR refcount block ${i} is not cluster aligned; refcount table entry corrupted`)
      } else if (cluster >= BigInt(walk.counts.clusters)) {
        this.#corrupt(`ERROR refcount block ${i} is outside image`)
      } else {
        walk.count(Number(offset), clusterSize)
        const count = walk.counts.get(Number(cluster))
        if (count !== 1) {
          this.#corrupt(`ERROR refcount block ${i} refcount=${count}`)
        }
      }
    }
  }

  /** Compares counted references with stored refcounts. Returns the last cluster that is in use. */
  async #compare(counts: ReferenceCounts, stored: StoredRefcounts): Promise<number> {
    let last = 0
    for (let cluster = 0; cluster < counts.clusters; cluster++) {
      if (cluster % countPageClusters === 0) {
        await this.#breathe()
        const skipped = this.#emptyClusters(cluster, counts, stored)
        if (skipped > 0) {
          cluster += skipped - 1
          continue
        }
      }
      try {
        let refcount = stored.get(cluster)
        if (refcount instanceof Promise) {
          refcount = await refcount
        }
        const references = counts.get(cluster)
        if (refcount === references) {
          if (references > 0) {
            last = cluster
          }
          continue
        }
        last = cluster
        const missing = refcount < references
        this.result.messages.push(
          `${missing ? 'ERROR' : 'Leaked'} cluster ${cluster} refcount=${refcount} reference=${references}`,
        )
        this.result[missing ? 'corruptions' : 'leaks']++
      } catch (error) {
        this.result.messages.push(
          `Can't get refcount for cluster ${cluster}: ${ioError(codeOf(error)).message}`,
        )
        this.result.checkErrors++
      }
    }
    return last
  }

  /** How many clusters from `start`, the first of a page, certainly have neither refcount nor reference. */
  #emptyClusters(start: number, counts: ReferenceCounts, stored: StoredRefcounts): number {
    const blockClusters = 2 ** stored.blockBits
    const step = Math.max(countPageClusters, blockClusters)
    if (start % step !== 0) {
      return 0
    }
    let cluster = start
    for (; cluster < counts.clusters; cluster += step) {
      for (let page = cluster; page < cluster + step; page += countPageClusters) {
        if (!counts.isPageEmpty(page)) {
          return cluster - start
        }
      }
      for (let block = cluster; block < cluster + step; block += blockClusters) {
        if (!stored.isBlockAbsent(block)) {
          return cluster - start
        }
      }
    }
    return cluster - start
  }
}
