import { blockError, codeOf, ioError, isBlockError } from '../../../errors/index.js'
import {
  type BlockChild,
  type BlockNode,
  type CheckFailure,
  type CheckFix,
  type CheckResult,
  truncateNode,
} from '../../../graph/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { readBitmapDirectory } from './bitmap-directory.js'
import { readBitmapClusters } from './bitmap-table.js'
import { CountComparison } from './check-compare.js'
import { ReferenceCounts, StoredRefcounts } from './check-counts.js'
import { RefcountRebuild } from './check-rebuild.js'
import { noRepair, type RepairMode } from './check-repair.js'
import { SnapshotCheck } from './check-snapshots.js'
import { CheckWalk, hex } from './check-walk.js'
import { Incompatible, maxL1Bytes, tableEntryBytes } from './constants.js'
import { readInside } from './file-read.js'
import type { Qcow2Header } from './header.js'
import type { OverlapCheck } from './overlap.js'
import type { SnapshotTable } from './snapshot-table.js'

/** What a check needs of an open image. */
export interface Qcow2Layout {
  readonly header: Qcow2Header
  readonly file: BlockChild
}

/** What a check needs to repair. It changes the file and, as far as the header goes, {@link Qcow2Layout.header}. */
export interface Qcow2Repair {
  readonly overlap: OverlapCheck | undefined
  /** Takes over the snapshots that were found; the protection of metadata follows. */
  snapshotsRead(table: SnapshotTable): Promise<void>
  /** Sends lines about corruption that is met on the way to `to`, or where they usually go. */
  divertWarnings(to: ((line: string) => void) | undefined): void
  /** Reports the image as corrupt and marks it so. */
  reportCorrupt(message: string): void
  /** Host clusters that lost their last reference. */
  freed(firstCluster: number, count: number): void
  /** Forgets the metadata in memory and reads it anew. */
  reload(): Promise<void>
  /** Writes the snapshot table anew, after {@link reload}. */
  writeSnapshots(): Promise<void>
  /** Clears the dirty and the corrupt bit, as everything is in order now. */
  markClean(): Promise<void>
}

/** More clusters than this QEMU does not check. */
const maxCheckedClusters = 0x7fffffff

/**
 * Checks the metadata of an image and repairs it if asked to: every reference is counted and compared
 * with the refcounts, and the COPIED flags with both. Messages, their order and the counts are those
 * of `qemu-img check`.
 *
 * Works on the file itself, so whatever the driver caches must have been written back. An interrupted
 * repair leaves the image no worse than it was: counts are right before flags that rely on them, new
 * structures are complete before anything points to them, and the bits in the header go last.
 *
 * @param repair needed if `fix` asks for anything
 * @param signal aborts the check with ECANCELED
 * @throws BlockError if the check cannot go on; what it found until then is the `cause`, as
 *   {@link CheckFailure}
 */
export async function checkImage(
  image: Qcow2Layout,
  fix: CheckFix,
  signal?: AbortSignal,
  repair?: Qcow2Repair,
): Promise<CheckResult> {
  if ((fix.leaks || fix.errors) && repair === undefined) {
    throw new Error('a repair needs an open image')
  }
  const check = new ImageCheck(image, fix, signal, repair)
  try {
    await check.run()
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    const failure: CheckFailure = { partial: check.result }
    throw blockError(error.code, error.message, { hint: error.hint, cause: failure })
  }
  return check.result
}

class ImageCheck {
  readonly #header: Qcow2Header
  readonly #file: BlockNode
  readonly #mode: RepairMode
  readonly #repair: Qcow2Repair | undefined
  readonly #signal: AbortSignal | undefined
  readonly #slice = new TimeSlice()
  /** The refcount structures are too far gone to be corrected in place. */
  #rebuild = false
  /** What was found before the refcount structures were rebuilt. */
  #foundBefore = { corruptions: 0, leaks: 0 }
  readonly result: CheckResult

  constructor(
    image: Qcow2Layout,
    fix: CheckFix,
    signal: AbortSignal | undefined,
    repair: Qcow2Repair | undefined,
  ) {
    this.#header = image.header
    this.#file = image.file.node
    this.#signal = signal
    this.#repair = repair
    this.#mode = fix.leaks || fix.errors ? { ...fix, overlap: repair?.overlap } : noRepair
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

  get #fixing(): boolean {
    return this.#mode.leaks || this.#mode.errors
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
    this.#repair?.divertWarnings((line) => this.result.messages.push(line))
    const snapshots = new SnapshotCheck(this.#header, this.#file, this.result, this.#mode)
    try {
      const table = await snapshots.read()
      if (this.#fixing) {
        await this.#repair?.snapshotsRead(table)
      }
      try {
        await this.#checkRefcounts(table)
      } finally {
        if (this.#fixing) {
          await this.#repair?.reload()
        }
      }
      await snapshots.fix(this.#repair === undefined ? undefined : () => this.#rewriteSnapshots())
    } finally {
      snapshots.settle()
      this.#repair?.divertWarnings(undefined)
    }
    if (this.#fixing && this.result.checkErrors === 0 && this.result.corruptions === 0) {
      await this.#repair?.markClean()
    }
  }

  async #rewriteSnapshots(): Promise<void> {
    await this.#repair?.writeSnapshots()
  }

  async #checkRefcounts(table: SnapshotTable): Promise<void> {
    const { clusterSize, refcountOrder } = this.#header
    const clusters = Math.ceil(this.#file.length / clusterSize)
    if (clusters > maxCheckedClusters) {
      this.result.checkErrors++
      throw ioError('EFBIG')
    }
    const counts = new ReferenceCounts(refcountOrder, clusters)
    const walk = new CheckWalk(this.#header, this.#file, counts, this.result, () => this.#breathe())
    walk.repair = this.#mode
    let stored = await this.#storedRefcounts()
    await this.#countReferences(walk, table, stored, this.#mode)
    const before = { ...this.result }
    let comparison = this.#comparison(counts, stored)
    let last = await comparison.run(noRepair, this.result)
    this.#rebuild ||= comparison.needsRebuild
    if (this.#rebuild && this.#mode.errors) {
      stored = await this.#rebuildRefcounts(counts, walk, table)
      comparison = this.#comparison(counts, stored)
      last = (await this.#freeOldStructures(comparison)) ?? last
    } else if (this.#fixing) {
      if (this.#rebuild) {
        this.result.messages.push('ERROR need to rebuild refcount structures')
        this.result.checkErrors++
        throw ioError('EIO')
      }
      if (this.result.leaks !== 0 || this.result.corruptions !== 0) {
        const { messages, reports } = this.result
        Object.assign(this.result, before, { messages, reports })
        last = await comparison.run(this.#mode, this.result)
      }
    }
    await stored.flush()
    this.#tellFreed(comparison)
    await walk.checkCopiedFlags(stored)
    this.result.imageEndOffset = (last + 1) * clusterSize
  }

  #comparison(counts: ReferenceCounts, stored: StoredRefcounts): CountComparison {
    return new CountComparison(counts, stored, () => this.#breathe())
  }

  #tellFreed(comparison: CountComparison): void {
    for (const [first, count] of comparison.freed) {
      this.#repair?.freed(first, count)
    }
  }

  async #storedRefcounts(): Promise<StoredRefcounts> {
    const { clusterSize, clusterBits, refcountOrder, refcountTableOffset, refcountTableClusters } =
      this.#header
    const table = await readInside(this.#file, refcountTableOffset, refcountTableClusters * clusterSize)
    return new StoredRefcounts(
      this.#file,
      table.subarray(0, table.length - (table.length % tableEntryBytes)),
      clusterBits,
      refcountOrder,
      (index, offset) => {
        const text = `Refblock offset ${hex(offset)} unaligned (reftable index: ${hex(index)})`
        if (this.#fixing && !this.#mode.errors) {
          this.#repair?.reportCorrupt(text)
        } else {
          this.result.messages.push(
            `qcow2: Image is corrupt: ${text}; further non-fatal corruption events will be suppressed`,
          )
        }
      },
    )
  }

  /** Makes new refcount structures and counts the references again, which now include these. */
  async #rebuildRefcounts(
    counts: ReferenceCounts,
    walk: CheckWalk,
    table: SnapshotTable,
  ): Promise<StoredRefcounts> {
    const { result } = this
    const found = { corruptions: result.corruptions, leaks: result.leaks }
    result.messages.push('Rebuilding refcount structure')
    const overlap = this.#mode.overlap
    const rebuild = new RefcountRebuild(this.#header, this.#file, counts, overlap, () => this.#breathe())
    try {
      await rebuild.run()
    } catch (error) {
      if (isBlockError(error)) {
        result.checkErrors++
        result.reports ??= []
        result.reports.push(result.messages.length)
        result.messages.push(error.message)
        throw ioError(error.code)
      }
      throw error
    }
    result.corruptions = 0
    result.leaks = 0
    counts.clear()
    this.#rebuild = false
    const stored = await this.#storedRefcounts()
    walk.repair = noRepair
    await this.#countReferences(walk, table, stored, noRepair)
    walk.repair = this.#mode
    this.#foundBefore = found
    return stored
  }

  /**
   * Frees the old refcount structures after a rebuild, if leaks are to be repaired. Returns the last
   * cluster in use, if it has been looked for.
   */
  async #freeOldStructures(comparison: CountComparison): Promise<number | undefined> {
    const { result } = this
    let last: number | undefined
    let freshLeaks = 0
    if (this.#mode.leaks) {
      // Only leaks that could not be repaired matter: all of them are new.
      const scratch: CheckResult = { ...result, leaks: 0, corruptions: 0, leaksFixed: 0, corruptionsFixed: 0 }
      last = await comparison.run({ leaks: true, errors: false }, scratch)
      if (comparison.needsRebuild || this.#rebuild) {
        result.messages.push('ERROR rebuilt refcount structure is still broken')
      }
      freshLeaks = scratch.leaks
    }
    const found = this.#foundBefore
    result.corruptionsFixed += Math.max(0, found.corruptions - result.corruptions)
    result.leaksFixed += Math.max(0, found.leaks - result.leaks)
    result.leaks += freshLeaks
    return last
  }

  async #countReferences(
    walk: CheckWalk,
    table: SnapshotTable,
    stored: StoredRefcounts,
    mode: RepairMode,
  ): Promise<void> {
    const header = this.#header
    walk.count(0, header.clusterSize)
    await walk.countTree(header.l1TableOffset, header.l1Size, true)
    if ((header.incompatible & Incompatible.dataFile) !== 0 && table.snapshots.length !== 0) {
      this.#corrupt(`ERROR ${table.snapshots.length} snapshots in image with data file`)
    }
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
        const offset = snapshot.l1TableOffset
        await walk.countTree(Number(offset), snapshot.l1Size, false, offset)
      }
    }
    walk.count(header.snapshotsOffset, table.bytes)
    walk.count(header.refcountTableOffset, header.refcountTableClusters * header.clusterSize)
    if (header.crypto !== undefined) {
      walk.count(header.crypto.offset, header.crypto.length)
    }
    await this.#countBitmaps(walk)
    await this.#countRefcountBlocks(walk, stored, mode)
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

  async #countRefcountBlocks(walk: CheckWalk, stored: StoredRefcounts, mode: RepairMode): Promise<void> {
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
        this.#rebuild = true
      } else if (offset % BigInt(clusterSize) !== 0n) {
        this.#corrupt(`ERROR refcount block ${i} is not cluster aligned; refcount table entry corrupted`)
        this.#rebuild = true
      } else if (cluster >= BigInt(walk.counts.clusters)) {
        this.#corrupt(`${mode.errors ? 'Repairing' : 'ERROR'} refcount block ${i} is outside image`)
        if (mode.errors) {
          await this.#growTo(walk, offset)
        }
      } else {
        walk.count(Number(offset), clusterSize)
        const count = walk.counts.get(Number(cluster))
        if (count !== 1) {
          this.#corrupt(`ERROR refcount block ${i} refcount=${count}`)
          this.#rebuild = true
        }
      }
    }
  }

  /** Makes the file long enough for the refcount block at `offset`. */
  async #growTo(walk: CheckWalk, offset: bigint): Promise<void> {
    const { clusterSize } = this.#header
    try {
      if (offset > 0x7fffffffffffffffn - BigInt(clusterSize)) {
        throw ioError('EINVAL')
      }
      const length = Number(offset) + clusterSize
      await truncateNode(this.#file, length, { exact: false, preallocation: 'off', zero: false })
    } catch (error) {
      this.#rebuild = true
      const text = resizeText(error)
      if (text !== undefined) {
        this.result.reports ??= []
        this.result.reports.push(this.result.messages.length)
        this.result.messages.push(text)
      }
      this.result.messages.push(`ERROR could not resize image: ${ioError(codeOf(error)).message}`)
      return
    }
    walk.counts.clusters = Math.max(walk.counts.clusters, Math.ceil(this.#file.length / clusterSize))
    this.result.corruptions--
    this.result.corruptionsFixed++
    walk.count(Number(offset), clusterSize)
  }
}

/** What is said about a file that cannot be made longer; nothing if there is only an errno. */
function resizeText(error: unknown): string | undefined {
  if (!isBlockError(error) || error.message === ioError(error.code).message) {
    return undefined
  }
  // Our own limit is below the platform's.
  return error.code === 'EFBIG' ? `Could not resize file: ${ioError('EFBIG').message}` : error.message
}
