import { codeOf, ioError } from '../../../errors/index.js'
import type { CheckResult } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import type { Maybe } from '../../../sched/index.js'
import type { Refcount, ReferenceCounts, StoredRefcounts } from './check-counts.js'
import { errnoText, noRepair, type RepairMode, writeRepair, writeRepairThrough } from './check-repair.js'
import { type TableFigures, TableScan } from './check-scan.js'
import { EntryHigh, EntryLow, extendedEntryBytes, Incompatible, tableEntryBytes } from './constants.js'
import { readInside } from './file-read.js'
import { Geometry } from './geometry.js'
import type { Qcow2Header } from './header.js'
import { ClusterType, clusterType, hostOffset, isCopied } from './l2-entry.js'
import { SubclusterEntries } from './subclusters.js'

/** C's `%#lx`. */
export function hex(value: number | bigint): string {
  return value === 0 || value === 0n ? '0' : `0x${value.toString(16)}`
}

/** C's `%lx` of the 64-bit value with these words. */
function hex64(high: number, low: number): string {
  return ((BigInt(high >>> 0) << 32n) | BigInt(low >>> 0)).toString(16)
}

/** Bits of L1 and of uncompressed L2 entries that must be zero. */
const l1Reserved = { high: 0x7f000000, low: 0x000001ff } as const
const l2Reserved = { high: 0x3f000000, low: 0x000001fe } as const

/** Beyond this a double does not tell neighbouring byte offsets apart. */
const exactHigh = 2 ** 21

/** Whether an entry of this type has an uncompressed host cluster. */
function isAllocated(type: number): boolean {
  return type === ClusterType.normal || type === ClusterType.zeroAllocated
}

/** The outcome of a repair of one L2 entry. */
type EntryFix = 'fixed' | 'failed'

/** Walks L1 and L2 tables as they stand in the file, counting what they refer to. */
export class CheckWalk {
  readonly #header: Qcow2Header
  readonly #file: IoNode
  readonly counts: ReferenceCounts
  readonly #result: CheckResult
  readonly #breathe: () => Promise<void>
  #buffer: Uint8Array | undefined
  /** What to repair on the way. */
  repair: RepairMode = noRepair
  readonly #entryBytes: number
  readonly #isExternal: boolean
  /** For images whose L2 entries do not say all by themselves. */
  readonly #entries: SubclusterEntries | undefined

  /** @param breathe called between tables; may yield, throws to abort */
  constructor(
    header: Qcow2Header,
    file: IoNode,
    counts: ReferenceCounts,
    result: CheckResult,
    breathe: () => Promise<void>,
  ) {
    this.#header = header
    this.#file = file
    this.counts = counts
    this.#result = result
    this.#breathe = breathe
    const geometry = new Geometry(header)
    this.#entryBytes = geometry.entryBytes
    this.#isExternal = (header.incompatible & Incompatible.dataFile) !== 0
    this.#entries =
      geometry.extendedL2 || this.#isExternal ? new SubclusterEntries(geometry, this.#isExternal) : undefined
  }

  #type(high: number, low: number): number {
    return this.#entries === undefined ? clusterType(high, low) : this.#entries.clusterType(high, low)
  }

  #corrupt(message: string): void {
    this.#result.corruptions++
    this.#result.messages.push(message)
  }

  /**
   * Counts one reference for each cluster that `[offset, +bytes)` touches.
   *
   * @param exact the offset, where a number cannot hold it
   */
  count(offset: number, bytes: number, exact?: bigint): void {
    // Sizes have a sign in QEMU.
    if (bytes <= 0 || bytes >= 2 ** 63) {
      return
    }
    const { clusterSize } = this.#header
    if (offset + bytes - this.#file.length >= clusterSize) {
      this.#corrupt(
        'ERROR: counting reference for region exceeding the end of the file by one cluster or more: ' +
          `offset 0x${(exact ?? offset).toString(16)} size 0x${bytes.toString(16)}`,
      )
      return
    }
    const last = Math.floor((offset + bytes - 1) / clusterSize)
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) {
      if (!this.counts.add(cluster)) {
        this.#corrupt(`ERROR: overflow cluster offset=0x${(cluster * clusterSize).toString(16)}`)
        this.#result.messages.push(
          'Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean ' +
            'copy if the image cannot be opened for writing',
        )
      }
    }
  }

  /**
   * Counts an L1 table, its L2 tables and what those refer to.
   *
   * @param entries at most 4 Mi, checked by the caller
   * @param active the tree is the guest's: it counts for the allocation figures
   * @param exact the offset, where a number cannot hold it
   */
  async countTree(offset: number, entries: number, active: boolean, exact?: bigint): Promise<void> {
    if (entries === 0) {
      return
    }
    this.count(offset, entries * tableEntryBytes, exact)
    const l1 = await this.#readChecked(offset, entries * tableEntryBytes, 'check_refcounts_l1')
    const view = new DataView(l1.buffer)
    for (let at = 0; at + tableEntryBytes <= l1.length; at += tableEntryBytes) {
      const high = view.getUint32(at)
      const low = view.getUint32(at + 4)
      if (high === 0 && low === 0) {
        continue
      }
      if ((high & l1Reserved.high) !== 0 || (low & l1Reserved.low) !== 0) {
        this.#corrupt(`ERROR found L1 entry with reserved bits set: ${hex64(high, low)}`)
      }
      const l2Offset = hostOffset(high, low)
      this.count(l2Offset, this.#header.clusterSize)
      if (l2Offset % this.#header.clusterSize !== 0) {
        this.#corrupt(
          `ERROR l2_offset=${l2Offset.toString(16)}: Table is not cluster aligned; L1 entry corrupted`,
        )
      }
      await this.#countL2(l2Offset, active)
      await this.#breathe()
    }
  }

  /** Memory for one table at a time. */
  #tableBuffer(): Uint8Array {
    this.#buffer ??= new Uint8Array(this.#header.clusterSize)
    return this.#buffer
  }

  async #readChecked(offset: number, bytes: number, where: string, into?: Uint8Array): Promise<Uint8Array> {
    try {
      return await readInside(this.#file, offset, bytes, into)
    } catch (error) {
      this.#result.messages.push(`ERROR: I/O error in ${where}`)
      this.#result.checkErrors++
      throw ioError(codeOf(error))
    }
  }

  async #countL2(offset: number, active: boolean): Promise<void> {
    const { clusterSize } = this.#header
    const l2 = await this.#readChecked(offset, clusterSize, 'check_refcounts_l2', this.#tableBuffer())
    const view = new DataView(l2.buffer, l2.byteOffset, l2.byteLength)
    const scan = new TableScan(l2, clusterSize)
    const figures = { allocated: 0, fragmented: 0, nextContiguous: 0 }
    try {
      await this.#countEntries(offset, scan, view, active, figures)
    } finally {
      if (active) {
        this.#result.allocatedClusters += figures.allocated
        this.#result.fragmentedClusters += figures.fragmented
      }
    }
  }

  async #countEntries(
    offset: number,
    scan: TableScan,
    view: DataView,
    active: boolean,
    figures: TableFigures,
  ): Promise<void> {
    const { clusterSize } = this.#header
    const { length: fileLength } = this.#file
    const entryBytes = this.#entryBytes
    const isExtended = entryBytes === extendedEntryBytes
    for (let at = 0; ; at += entryBytes) {
      if (this.#entries === undefined) {
        at = scan.count(at, this.counts, fileLength, figures)
      }
      if (at + entryBytes > view.byteLength) {
        return
      }
      const high = view.getUint32(at)
      const low = view.getUint32(at + 4)
      if (high === 0 && low === 0 && !isExtended) {
        continue
      }
      const type = this.#type(high, low)
      const bitmap = isExtended && (view.getUint32(at + 8) !== 0 || view.getUint32(at + 12) !== 0)
      if (type === ClusterType.compressed) {
        this.#countCompressed(high, low, active, at / entryBytes, bitmap)
        continue
      }
      if (bitmap) {
        this.#checkBitmap(view, at, type)
      }
      if ((high & l2Reserved.high) !== 0 || (low & l2Reserved.low) !== 0) {
        this.#corrupt(`ERROR found l2 entry with reserved bits set: ${hex64(high, low)}`)
      }
      if (!isAllocated(type)) {
        continue
      }
      const cluster = hostOffset(high, low)
      if (cluster % clusterSize !== 0) {
        const zero = isExtended ? view.getUint32(at + 12) === 0 : type === ClusterType.zeroAllocated
        const fixable = zero && this.repair.errors
        this.#corrupt(
          `${fixable ? 'Repairing' : 'ERROR'} offset=${cluster.toString(16)}: ` +
            `${zero ? 'Preallocated' : 'Data'} cluster is not properly aligned; L2 entry corrupted.`,
        )
        if (fixable && (await this.#makeZero(offset + at, active)) === 'fixed') {
          continue
        }
      }
      figures.allocated++
      if (figures.nextContiguous !== 0 && cluster !== figures.nextContiguous) {
        figures.fragmented++
      }
      figures.nextContiguous = cluster + clusterSize
      if (!this.#isExternal) {
        this.count(cluster, clusterSize)
      }
    }
  }

  /** Checks an allocation bitmap that is not empty. */
  #checkBitmap(view: DataView, at: number, type: number): void {
    const zeroes = view.getUint32(at + 8)
    const allocated = view.getUint32(at + 12)
    if (type === ClusterType.unallocated) {
      if (allocated !== 0) {
        this.#corrupt('ERROR: Unallocated cluster has non-zero subcluster allocation map')
      }
    } else if ((zeroes & allocated) !== 0) {
      const offset = hostOffset(view.getUint32(at), view.getUint32(at + 4))
      this.#corrupt(
        `ERROR offset=${offset.toString(16)}: Allocated cluster has corrupted subcluster allocation bitmap`,
      )
    }
  }

  /**
   * Turns the L2 entry at `offset` into one without a cluster: it reads as zeroes, or as its bitmap says.
   *
   * @throws EIO if that would overwrite other metadata
   */
  async #makeZero(offset: number, active: boolean): Promise<EntryFix> {
    const entry = new Uint8Array(tableEntryBytes)
    if (this.#entryBytes === tableEntryBytes) {
      new DataView(entry.buffer).setUint32(4, EntryLow.zero)
    }
    try {
      this.repair.overlap?.checkExcept(offset, entry.length, active ? 'active-l2' : 'inactive-l2')
    } catch (error) {
      this.#result.messages.push('ERROR: Overlap check failed')
      this.#result.checkErrors++
      throw error
    }
    try {
      await writeRepairThrough(this.#file, offset, entry)
    } catch (error) {
      this.#result.messages.push(`ERROR: Failed to overwrite L2 table entry: ${errnoText(error)}`)
      this.#result.checkErrors++
      return 'failed'
    }
    this.#result.corruptions--
    this.#result.corruptionsFixed++
    return 'fixed'
  }

  #countCompressed(high: number, low: number, active: boolean, index: number, bitmap: boolean): void {
    // The descriptor: offset in the low bits, then the number of further 512-byte sectors.
    const sizeShift = 70 - this.#header.clusterBits - 32
    const offsetHigh = high & (2 ** sizeShift - 1)
    const sectors = ((high & 0x3fffffff) >>> sizeShift) + 1
    const offset = offsetHigh * 0x100000000 + low
    if (isCopied(high)) {
      this.#corrupt(
        `ERROR: coffset=0x${hex64(offsetHigh, low)}: copied flag must never be set for compressed clusters`,
      )
    }
    if (this.#isExternal) {
      this.#corrupt(
        `ERROR compressed cluster ${index} with data file, entry=0x${hex64(high & ~EntryHigh.copied, low)}`,
      )
      return
    }
    if (bitmap) {
      this.#corrupt(
        `ERROR compressed cluster ${index} with non-zero subcluster allocation bitmap, ` +
          `entry=0x${hex64(high & ~EntryHigh.copied, low)}`,
      )
      return
    }
    const exact = offsetHigh >= exactHigh ? (BigInt(offsetHigh) << 32n) | BigInt(low) : undefined
    this.count(offset, sectors * 512 - (low & 511), exact)
    if (active) {
      this.#result.allocatedClusters++
      this.#result.compressedClusters++
      // Compressed clusters are never contiguous in the sense of this figure.
      this.#result.fragmentedClusters++
    }
  }

  /** Whether flags are to be repaired: with leaks only if the refcounts are known to be right. */
  get #repairsFlags(): boolean {
    const { checkErrors, corruptions, leaks } = this.#result
    return this.repair.errors || (this.repair.leaks && checkErrors === 0 && corruptions === 0 && leaks === 0)
  }

  /** Compares the COPIED flags of the guest's tables with the stored refcounts. */
  async checkCopiedFlags(stored: StoredRefcounts): Promise<void> {
    const repair = this.#repairsFlags
    const word = repair ? 'Repairing' : 'ERROR'
    const { l1TableOffset, l1Size } = this.#header
    const l1 = await readInside(this.#file, l1TableOffset, l1Size * tableEntryBytes)
    const view = new DataView(l1.buffer)
    for (let at = 0; at + tableEntryBytes <= l1.length; at += tableEntryBytes) {
      const high = view.getUint32(at)
      const low = view.getUint32(at + 4)
      const l2Offset = hostOffset(high, low)
      if (l2Offset === 0) {
        continue
      }
      const refcount = await this.#refcountAt(stored, l2Offset)
      if (refcount === undefined) {
        continue
      }
      if ((refcount === 1) !== isCopied(high)) {
        this.#corrupt(
          `${word} OFLAG_COPIED L2 cluster: l1_index=${at / tableEntryBytes} ` +
            `l1_entry=${hex64(high, low)} refcount=${refcount}`,
        )
        if (repair) {
          view.setUint32(at, (high ^ EntryHigh.copied) >>> 0)
          await this.#writeL1Entry(l1TableOffset, l1, at)
        }
      }
      await this.#checkCopiedL2(l2Offset, stored, repair)
      await this.#breathe()
    }
  }

  /** Writes the sector of the L1 table that holds the entry at byte `at` of it. */
  async #writeL1Entry(offset: number, l1: Uint8Array, at: number): Promise<void> {
    const start = at - (at % 512)
    try {
      this.repair.overlap?.checkExcept(offset + start, 512, 'active-l1')
      await writeRepairThrough(this.#file, offset + start, l1.subarray(start, start + 512))
    } catch (error) {
      this.#result.checkErrors++
      throw ioError(codeOf(error))
    }
    this.#result.corruptions--
    this.#result.corruptionsFixed++
  }

  async #writeL2(offset: number, l2: Uint8Array, changed: number): Promise<void> {
    try {
      this.repair.overlap?.checkExcept(offset, l2.length, 'active-l2')
    } catch (error) {
      this.#result.messages.push(
        `ERROR: Could not write L2 table; metadata overlap check failed: ${errnoText(error)}`,
      )
      this.#result.checkErrors++
      throw ioError(codeOf(error))
    }
    try {
      await writeRepair(this.#file, offset, l2)
    } catch (error) {
      this.#result.messages.push(`ERROR: Could not write L2 table: ${errnoText(error)}`)
      this.#result.checkErrors++
      throw ioError(codeOf(error))
    }
    this.#result.corruptions -= changed
    this.#result.corruptionsFixed += changed
  }

  async #checkCopiedL2(offset: number, stored: StoredRefcounts, repair: boolean): Promise<void> {
    let l2: Uint8Array
    try {
      l2 = await readInside(this.#file, offset, this.#header.clusterSize, this.#tableBuffer())
    } catch (error) {
      const failure = ioError(codeOf(error))
      this.#result.messages.push(`ERROR: Could not read L2 table: ${failure.message}`)
      this.#result.checkErrors++
      throw failure
    }
    const view = new DataView(l2.buffer, l2.byteOffset, l2.byteLength)
    const { clusterSize } = this.#header
    const scan = new TableScan(l2, clusterSize)
    let changed = 0
    const entryBytes = this.#entryBytes
    for (let at = 0; ; at += entryBytes) {
      if (this.#entries === undefined) {
        at = scan.nextDoubtfulFlag(at, stored)
      }
      if (at + entryBytes > l2.length) {
        break
      }
      const high = view.getUint32(at)
      const low = view.getUint32(at + 4)
      if (!isAllocated(this.#type(high, low))) {
        continue
      }
      let maybe: Maybe<Refcount | undefined> = this.#isExternal
        ? 1
        : stored.get(Math.floor(hostOffset(high, low) / clusterSize))
      if (maybe instanceof Promise) {
        maybe = await maybe.catch(() => undefined)
      }
      const refcount = maybe
      if (refcount !== undefined && (refcount === 1) !== isCopied(high)) {
        const word = repair ? 'Repairing' : 'ERROR'
        this.#corrupt(`${word} OFLAG_COPIED data cluster: l2_entry=${hex64(high, low)} refcount=${refcount}`)
        if (repair) {
          view.setUint32(at, (high ^ EntryHigh.copied) >>> 0)
          changed++
        }
      }
    }
    if (changed !== 0) {
      await this.#writeL2(offset, l2, changed)
    }
  }

  /** The stored refcount of the cluster at `offset`; undefined if its block cannot be read. */
  #refcountAt(stored: StoredRefcounts, offset: number): Maybe<Refcount | undefined> {
    const refcount = stored.get(Math.floor(offset / this.#header.clusterSize))
    return refcount instanceof Promise ? refcount.catch(() => undefined) : refcount
  }
}
