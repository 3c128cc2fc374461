import { codeOf, errnoError } from '../../../errors/index.js'
import { TableCache, type TableFile } from '../../../formatkit/index.js'
import type { BlockChild, BlockNode } from '../../../graph/index.js'
import type { Host } from '../../../host/index.js'
import type { DebugEvent, IoNode } from '../../../io/index.js'
import { type Maybe, Mutex, monotonicClock, type Wait } from '../../../sched/index.js'
import { ClusterAllocator, type DiscardPolicy } from './allocate.js'
import { CacheCleaner } from './cache-clean.js'
import type { CacheSizes } from './cache-sizes.js'
import { Autoclear, Incompatible, tableEntryBytes } from './constants.js'
import { type CorruptImage, CorruptionReport } from './corruption.js'
import type { Qcow2Crypto } from './crypto.js'
import { readPadded } from './file-read.js'
import { Geometry } from './geometry.js'
import { type Qcow2Header, serializeHeader } from './header.js'
import { L1Table } from './l1-table.js'
import type { OverlapCheck } from './overlap.js'
import { Refcounts } from './refcount.js'
import type { Qcow2Snapshot } from './snapshot-table.js'

/** Byte offset of the field "incompatible features" in the header. */
const headerIncompatibleField = 72
const l2Events = { load: 'l2_load', update: 'l2_update' } as const
const blockEvents = { load: 'refblock_load', update: 'refblock_update_part' } as const

export interface MetadataOptions {
  readonly node: IoNode
  readonly file: BlockChild
  /** Where guest data lives, if that is a file of its own. */
  readonly dataFile?: BlockChild | undefined
  readonly host: Host
  readonly header: Qcow2Header
  readonly caches: CacheSizes
  readonly discards: DiscardPolicy
  /** Tells listeners of the layer that the image is corrupt. */
  readonly emit?: NonNullable<CorruptImage['emit']>
  readonly crypto?: Qcow2Crypto | undefined
}

/**
 * The metadata of an open image as it is in memory, with the rules that keep the image consistent
 * whenever the power goes:
 *
 * - refcount before reference: the L2 cache is written after the refcount cache;
 * - unreference before free: the refcount cache is written after the L2 cache;
 * - copied data before link: the L2 cache is written after a flush;
 * - a new table before the pointer to it; the header last.
 *
 * What a crash leaves behind may be leaked clusters, never a reference without a count.
 *
 * Whoever must await in the middle of a change holds {@link lock}. A change that awaits nothing needs
 * only look that nobody holds it. Reading metadata needs no lock.
 */
export class Qcow2Metadata {
  readonly node: IoNode
  readonly #fileEdge: BlockChild
  readonly #dataEdge: BlockChild
  readonly #tableFile: TableFile
  /** Guest data lives in a file of its own, at the guest's offsets. */
  readonly isExternal: boolean
  readonly host: Host
  readonly header: Qcow2Header
  geometry: Geometry
  readonly lock = new Mutex()
  readonly l1 = new L1Table(0, new Uint8Array(0))
  /** Slices of L2 tables. */
  l2: TableCache
  /** Entries of an L2 slice. */
  sliceEntries: number
  /** Refcount blocks. */
  readonly blocks: TableCache
  readonly refcounts: Refcounts
  readonly allocator: ClusterAllocator
  readonly corruption: CorruptionReport
  /** Absent for images without encryption. */
  readonly crypto: Qcow2Crypto | undefined
  /** Protects metadata of an image that is open for writing. */
  overlap: OverlapCheck | undefined = undefined
  /** Refcounts may lag behind once the image is marked dirty. */
  lazyRefcounts = false
  /** Discarded clusters keep their host clusters (option `discard-no-unref`). */
  discardNoUnref = false
  /** Lets go of tables that are not in use. */
  readonly cleaner: CacheCleaner
  /** Internal snapshots in the order of the table, and the bytes it has in the file. */
  readonly snapshots: Qcow2Snapshot[] = []
  snapshotTableBytes = 0
  readonly emit: NonNullable<CorruptImage['emit']>
  #loaded = false

  constructor(options: MetadataOptions) {
    const { node, file, host, header, caches } = options
    this.node = node
    this.#fileEdge = file
    this.#dataEdge = options.dataFile ?? file
    this.isExternal = (header.incompatible & Incompatible.dataFile) !== 0
    this.host = host
    this.emit = options.emit ?? (() => undefined)
    this.crypto = options.crypto
    this.header = header
    this.geometry = new Geometry(header)
    const dataEdge = this.#dataEdge
    this.#tableFile =
      dataEdge === file
        ? file
        : {
            get node() {
              return file.node
            },
            flushData: () => dataEdge.node.flush(),
          }
    this.l2 = new TableCache(this.#tableFile, caches.l2EntryBytes, caches.l2Entries, l2Events)
    this.sliceEntries = caches.l2EntryBytes / this.geometry.entryBytes
    this.blocks = new TableCache(file, header.clusterSize, caches.refcountEntries, blockEvents)
    this.cleaner = new CacheCleaner(host.clock ?? monotonicClock, () => [this.l2, this.blocks])
    this.refcounts = new Refcounts(this)
    this.allocator = new ClusterAllocator(this, options.discards)
    this.corruption = new CorruptionReport(this)
  }

  /** The node that holds the image; it changes when another node takes the old one's place. */
  get file(): BlockNode {
    return this.#fileEdge.node
  }

  /** The node that holds guest data: {@link file}, unless there is an external data file. */
  get data(): BlockNode {
    return this.#dataEdge.node
  }

  /** The external data file must read like the guest's disk. */
  get isRawData(): boolean {
    return this.isExternal && (this.header.autoclear & Autoclear.dataFileRaw) !== 0
  }

  /** Tells those who debug the file that the driver reached `name`; what follows waits for the result. */
  event(name: DebugEvent): Wait {
    return this.file.debug?.event(name)
  }

  /** Takes other cache sizes into use. The caches have been written back and nothing is in flight. */
  resizeCaches(caches: CacheSizes): void {
    if (caches.l2EntryBytes !== this.l2.tableBytes) {
      this.l2 = new TableCache(this.#tableFile, caches.l2EntryBytes, caches.l2Entries, l2Events)
      this.sliceEntries = caches.l2EntryBytes / this.geometry.entryBytes
    }
    this.l2.capacity = caches.l2Entries
    this.blocks.capacity = caches.refcountEntries
  }

  /** The header's version or refcount width has changed. */
  refreshGeometry(): void {
    this.geometry = new Geometry(this.header)
    this.refcounts.refreshFormat()
  }

  /** Whether the L1 table and the refcount table are in memory. */
  get loaded(): boolean {
    return this.#loaded
  }

  /** Reads the L1 table and the refcount table. */
  async load(): Promise<void> {
    const { header } = this
    const l1 = new Uint8Array(header.l1Size * tableEntryBytes)
    await this.#read(header.l1TableOffset, l1, 'Could not read L1 table')
    await this.event('reftable_load')
    const table = new Uint8Array(header.refcountTableClusters * header.clusterSize)
    await this.#read(header.refcountTableOffset, table, 'Could not initialize refcount handling')
    this.l1.replace(header.l1TableOffset, l1)
    this.refcounts.setTable(table)
    this.#loaded = true
    await this.overlap?.load()
  }

  async #read(offset: number, into: Uint8Array, failure: string): Promise<void> {
    try {
      const wait = readPadded(this.file, offset, into)
      if (wait !== undefined) {
        await wait
      }
    } catch (error) {
      throw errnoError(codeOf(error), failure, { cause: error })
    }
  }

  /** Runs `body` with the metadata lock held. */
  locked<T>(body: () => Maybe<T>): Promise<T> {
    return this.lock.run(body)
  }

  /** File offset of the cached slice that holds entry `index` of the L2 table at `tableOffset`. */
  sliceOffset(tableOffset: number, index: number): number {
    return tableOffset + (index - (index % this.sliceEntries)) * this.geometry.entryBytes
  }

  /** Brings a slice of an L2 table into the cache and pins it, for reading: the lock is taken only if needed. */
  async loadForRead(sliceOffset: number) {
    if (this.l2.canLoad(sliceOffset)) {
      return await this.l2.load(sliceOffset)
    }
    return await this.locked(() => this.l2.load(sliceOffset))
  }

  /**
   * Whether the image is marked dirty: refcounts in the file need not be right, as whoever finds it so
   * repairs them before writing.
   */
  get isDirty(): boolean {
    return (this.header.incompatible & Incompatible.dirty) !== 0
  }

  /** Prepares for new references in L2 tables: marks the image dirty, or orders the refcounts first. Lock held. */
  async orderLinks(): Promise<void> {
    if (this.lazyRefcounts && !this.isDirty) {
      await this.#markDirty()
    }
    if (this.isDirty) {
      // No refcounts go first whose flush would take the data along.
      this.l2.orderAfterFlush()
      return
    }
    const wait = this.l2.orderAfter(this.blocks)
    if (wait !== undefined) {
      await wait
    }
  }

  async #markDirty(): Promise<void> {
    const field = new Uint8Array(8)
    const bits = this.header.incompatible | Incompatible.dirty
    new DataView(field.buffer).setUint32(4, bits)
    await this.writeThrough(headerIncompatibleField, field)
    this.header.incompatible = bits
  }

  /** Makes everything durable, then clears header bits that said it might not be. Lock held. */
  async markClean(bits: number): Promise<void> {
    const { header } = this
    if ((header.incompatible & bits) === 0) {
      return
    }
    await this.flushL2()
    await this.flushBlocks()
    const before = header.incompatible
    header.incompatible &= ~bits
    try {
      await this.writeHeader()
    } catch (error) {
      header.incompatible = before
      throw error
    }
  }

  /** Makes what L2 tables say durable. Freed clusters that waited for that may be used again. */
  async flushL2(): Promise<void> {
    const wait = this.l2.flush()
    if (wait !== undefined) {
      await wait
    }
    this.allocator.unlinkDurable()
  }

  /** Makes refcounts durable. */
  async flushBlocks(): Promise<void> {
    const wait = this.blocks.flush()
    if (wait !== undefined) {
      await wait
    }
  }

  /** Writes changed L2 tables to the file. Lock held. */
  async writeL2(): Promise<void> {
    const wait = this.l2.writeBack()
    if (wait !== undefined) {
      await wait
    }
  }

  /** Writes changed refcounts to the file. Lock held. */
  async writeBlocks(): Promise<void> {
    const wait = this.blocks.writeBack()
    if (wait !== undefined) {
      await wait
    }
  }

  /** Writes both caches to the file, in order; not durable before the file is flushed. Lock held. */
  async writeCaches(): Promise<void> {
    await this.writeL2()
    await this.writeBlocks()
  }

  /** Writes to the file and waits until it is durable. */
  async writeThrough(offset: number, bytes: Uint8Array): Promise<void> {
    const written = this.file.write(offset, bytes.length, bytes, 0, 0)
    if (written !== undefined) {
      await written
    }
    const flushed = this.file.flush()
    if (flushed !== undefined) {
      await flushed
    }
  }

  /** Writes the whole header cluster. Throws ENOSPC if it does not fit. */
  async writeHeader(): Promise<void> {
    await this.writeThrough(0, serializeHeader(this.header))
  }

  /** Hands all changes to the file, for a flush of the node. */
  flushToOs(): Wait {
    return this.l2.isDirty || (this.blocks.isDirty && !this.isDirty) || this.lock.locked
      ? this.locked(() => (this.isDirty ? this.writeL2() : this.writeCaches()))
      : undefined
  }
}
