import { readU64LE, writeU64LE } from '../../../bytes/index.js'
import { ioError } from '../../../errors/index.js'
import {
  type CachedTable,
  LoadedTable,
  readPadded,
  TableCache,
  writeLevels,
} from '../../../formatkit/index.js'
import type { BlockChild } from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import { fileEnd, isClusterPlace, isTablePlace, type QedHeader } from './header.js'

/** Tables of the second level are read and written in parts of this size, as they can be of 1 GiB. Bytes. */
const largestSlice = 1 << 16
/** Bytes of them that are kept. */
const cacheBytes = 2 << 20

/** Bytes of the first-level table that map a disk of `length` bytes. */
export function l1BytesOf(header: QedHeader, length: number): number {
  return Math.ceil(length / header.span) * 8
}

/**
 * Both levels of tables, and the end of the file, where everything new goes. The first level is in
 * memory, of the second some; what changes is written at a flush: data is durable before a table refers to
 * it, and a table before the first level does. So an image is consistent after a crash. Other programs
 * expect the mark that says that it is to be checked all the same: it is durable before a table changes, and
 * goes when all tables are durable.
 */
export class QedTables {
  /** Held by who changes tables over an await, or writes them. */
  readonly mutex = new Mutex()
  readonly header: QedHeader
  readonly clusterSize: number
  /** Guest bytes of one table of the second level. */
  readonly span: number
  /** Guest bytes of one slice of it. */
  readonly sliceSpan: number
  readonly l1: LoadedTable
  /** Slices of the second level. */
  readonly l2: TableCache
  readonly file: BlockChild
  readonly #sliceBytes: number
  /** Clusters that were taken and not used. */
  readonly #spare: number[] = []
  /** Whether every table was looked at, if the image was found with the mark. */
  #isChecked: boolean
  #end: number

  /** @param l1 the part of the first-level table that maps the disk */
  constructor(file: BlockChild, header: QedHeader, l1: Uint8Array) {
    this.file = file
    this.header = header
    this.clusterSize = header.clusterSize
    this.span = header.span
    this.#sliceBytes = Math.min(largestSlice, header.tableBytes)
    this.sliceSpan = (this.#sliceBytes / 8) * this.clusterSize
    this.l1 = new LoadedTable(file, header.l1Offset, l1)
    this.l2 = new TableCache(file, this.#sliceBytes, cacheBytes / this.#sliceBytes)
    this.#end = fileEnd(header, file.node.length)
    this.#isChecked = !header.needsCheck
  }

  /** Behind everything that is in use, whole clusters, bytes. */
  get end(): number {
    return this.#end
  }

  /** Most clusters that {@link takeClusters} gives at a time at the moment. */
  get run(): number {
    return this.#spare.length === 0 ? Number.POSITIVE_INFINITY : 1
  }

  /** Place in the file of the slice for guest `offset`; 0 if there is none. @throws EINVAL if it is nowhere */
  sliceOffset(offset: number): number {
    const table = readU64LE(this.l1.bytes, Math.floor(offset / this.span) * 8)
    if (table === 0) {
      return 0
    }
    if (!isTablePlace(this.header, table, this.#end)) {
      throw ioError('EINVAL')
    }
    return table + Math.floor((offset % this.span) / this.sliceSpan) * this.#sliceBytes
  }

  /** Index in its slice of the cluster that holds guest `offset`. */
  indexOf(offset: number): number {
    return Math.floor((offset % this.sliceSpan) / this.clusterSize)
  }

  isCluster(offset: number): boolean {
    return isClusterPlace(this.header, offset, this.#end)
  }

  /** Whether guest data may be written at `[offset, +bytes)` of the file. */
  isDataPlace(offset: number, bytes: number): boolean {
    return offset + bytes <= this.l1.offset || offset >= this.l1.offset + this.header.tableBytes
  }

  /** The slice at `place` in the cache, pinned: give it back with `l2.release`. For reading. */
  async load(place: number): Promise<CachedTable> {
    return this.l2.canLoad(place)
      ? await this.l2.load(place)
      : await this.mutex.run(() => this.l2.load(place))
  }

  /** The slice for guest `offset` if it may be changed at once. */
  writable(offset: number): CachedTable | undefined {
    const place = this.sliceOffset(offset)
    return place === 0 ? undefined : this.l2.reach(this.#checkPlace(place))
  }

  /** The slice for guest `offset`, made if there is none, pinned: give it back with `l2.release`. Mutex held. */
  async makeWritable(offset: number): Promise<CachedTable> {
    const place = this.sliceOffset(offset)
    if (place !== 0) {
      return await this.l2.load(this.#checkPlace(place))
    }
    const { tableBytes } = this.header
    this.checkRoom(tableBytes)
    const fresh = this.#end
    this.#end += tableBytes
    try {
      const wait = this.file.node.writeZeroes(fresh, tableBytes, 0)
      if (wait !== undefined) {
        await wait
      }
    } catch (error) {
      this.giveBack(fresh, tableBytes / this.clusterSize)
      throw error
    }
    const at = Math.floor(offset / this.span) * 8
    writeU64LE(this.l1.bytes, at, fresh)
    this.l1.changed(at)
    return await this.l2.load(this.sliceOffset(offset))
  }

  /** Tables that stand in the first-level table are never changed. */
  #checkPlace(place: number): number {
    if (!this.isDataPlace(place, this.#sliceBytes)) {
      throw ioError('EIO')
    }
    return place
  }

  /** Throws EFBIG if there is no room for `bytes` more. Before anything is taken, with nothing in between. */
  checkRoom(bytes: number): void {
    if (this.#end + bytes > maxLength) {
      throw ioError('EFBIG')
    }
  }

  /** Place of `count` clusters in a row, at most {@link run}. */
  takeClusters(count: number): number {
    const spare = this.#spare.pop()
    if (spare !== undefined) {
      return spare
    }
    const offset = this.#end
    this.#end += count * this.clusterSize
    return offset
  }

  /** The clusters will not be used after all; something may have been written there. */
  giveBack(offset: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.#spare.push(offset + i * this.clusterSize)
    }
  }

  /** Has more of the first-level table in memory, `bytes` of it. Mutex held. */
  async growL1(bytes: number): Promise<void> {
    if (bytes > this.l1.bytes.length) {
      const longer = new Uint8Array(bytes)
      await readPadded(this.file.node, this.l1.offset, longer)
      // What is in memory is newer.
      this.l1.moveTo(this.l1.offset, longer)
    }
  }

  /** A table of the second level is taken out of the first, where it is gone from the file already. */
  forgetTable(index: number): void {
    if (index * 8 < this.l1.bytes.length) {
      writeU64LE(this.l1.bytes, index * 8, 0)
      this.l1.changed(index * 8)
    }
  }

  /** Writes everything back so that the file can be read instead. Mutex held. */
  async settle(): Promise<void> {
    if (this.l1.isDirty || this.l2.isDirty) {
      await writeLevels(this.l1, this.l2)
    }
  }

  /** Writes everything back, and takes the mark away. All of it is durable after a flush. */
  writeBack(): Wait {
    return this.l1.isDirty || this.l2.isDirty || this.mutex.locked || this.#mayUnmark
      ? this.mutex.run(async () => {
          await writeLevels(this.l1, this.l2)
          if (this.#mayUnmark) {
            await this.unmark()
          }
        })
      : undefined
  }

  get #mayUnmark(): boolean {
    return this.header.needsCheck && this.#isChecked
  }

  /** The tables were checked, and repaired as far as they can be: the mark may go. */
  checked(): void {
    this.#isChecked = true
  }

  /** Marks the image as one that is to be checked, before any table changes. Mutex held. */
  async mark(): Promise<void> {
    await this.#setMark(true)
    this.l2.orderAfterFlush()
  }

  /** Takes the mark away when all that was written is durable. Mutex held. */
  async unmark(): Promise<void> {
    await this.file.node.flush()
    await this.#setMark(false)
  }

  async #setMark(needed: boolean): Promise<void> {
    const before = this.header.needsCheck
    this.header.needsCheck = needed
    try {
      await this.writeHeader()
    } catch (error) {
      this.header.needsCheck = before
      throw error
    }
  }

  /** Writes the header, which holds no strings. Durable after a flush. */
  async writeHeader(): Promise<void> {
    const bytes = this.header.bytes.slice()
    const wait = this.file.node.write(0, bytes.length, bytes, 0, 0)
    if (wait !== undefined) {
      await wait
    }
  }
}
