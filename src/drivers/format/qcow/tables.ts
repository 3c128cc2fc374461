import { readU32BE, writeU64BE } from '../../../bytes/index.js'
import { ioError } from '../../../errors/index.js'
import { type CachedTable, LoadedTable, TableCache, writeLevels } from '../../../formatkit/index.js'
import type { BlockChild } from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import { headerBytes, type QcowHeader, spanOf } from './header.js'
import { FileSpace } from './space.js'

/** Bytes of second-level tables kept, and least number of them. */
const cacheBytes = 2 << 20
const leastTables = 16

/**
 * Both levels of tables. The first is in memory, of the second some; what changes is written at a flush:
 * data is durable before a table refers to it, and a table before the first level does.
 */
export class QcowTables {
  /** Held by who changes tables over an await, or writes them. */
  readonly mutex = new Mutex()
  readonly clusterSize: number
  /** Guest bytes of one second-level table. */
  readonly span: number
  readonly l1: LoadedTable
  readonly l2: TableCache
  readonly space: FileSpace
  readonly #file: BlockChild
  readonly #tableBytes: number
  #prepared = false

  /** @param l1 the first-level table as it stands in the file */
  constructor(file: BlockChild, header: QcowHeader, l1: Uint8Array) {
    this.#file = file
    this.clusterSize = 2 ** header.clusterBits
    this.span = spanOf(header)
    this.l1 = new LoadedTable(file, header.l1Offset, l1)
    this.#tableBytes = 8 * 2 ** header.l2Bits
    this.l2 = new TableCache(file, this.#tableBytes, Math.max(leastTables, cacheBytes / this.#tableBytes))
    this.space = new FileSpace(file, this.clusterSize)
  }

  get file(): BlockChild {
    return this.#file
  }

  /** End of the header and the first-level table: nothing else is written before it. Bytes. */
  get fixedEnd(): number {
    return Math.max(headerBytes, this.l1.offset + this.l1.bytes.length)
  }

  /** Place of the table for guest `offset`; 0 if there is none. @throws EIO if it is nowhere */
  tableOffset(offset: number): number {
    const at = Math.floor(offset / this.span) * 8
    const place = readU32BE(this.l1.bytes, at) * 0x1_0000_0000 + readU32BE(this.l1.bytes, at + 4)
    if (place > maxLength - this.#tableBytes) {
      throw ioError('EIO')
    }
    return place
  }

  /** Index in its table of the cluster that holds guest `offset`. */
  indexOf(offset: number): number {
    return Math.floor((offset % this.span) / this.clusterSize)
  }

  /** The table at `place` in the cache, pinned: give it back with `l2.release`. For reading. */
  async load(place: number): Promise<CachedTable> {
    return this.l2.canLoad(place)
      ? await this.l2.load(place)
      : await this.mutex.run(() => this.l2.load(place))
  }

  /** The table for guest `offset` if it may be changed at once. */
  writable(offset: number): CachedTable | undefined {
    if (!this.#prepared) {
      return undefined
    }
    const place = this.tableOffset(offset)
    return place === 0 ? undefined : this.l2.reach(this.#checkPlace(place))
  }

  /**
   * The table for guest `offset`, made if there is none, pinned: give it back with `l2.release`. Mutex held.
   *
   * @throws EIO if it stands where nothing may be written
   */
  async makeWritable(offset: number): Promise<CachedTable> {
    if (!this.#prepared) {
      this.space.prepare(this.fixedEnd)
      this.#prepared = true
    }
    const place = this.tableOffset(offset)
    if (place !== 0) {
      return await this.l2.load(this.#checkPlace(place))
    }
    this.space.checkRoom(this.#tableBytes)
    const fresh = this.space.takeTable(this.#tableBytes)
    const table = await this.l2.create(fresh)
    const at = Math.floor(offset / this.span) * 8
    writeU64BE(this.l1.bytes, at, fresh)
    this.l1.changed(at)
    return table
  }

  /** Tables in the header, in the first level or behind the end are never changed. */
  #checkPlace(place: number): number {
    if (place < this.fixedEnd || place + this.#tableBytes > this.space.end) {
      throw ioError('EIO')
    }
    return place
  }

  /** Enters clusters or compressed data that have just been written. Not while the mutex is held by others. */
  set(table: CachedTable, index: number, entryHigh: number, entryLow: number): void {
    table.view.setUint32(index * 8, entryHigh)
    table.view.setUint32(index * 8 + 4, entryLow)
    this.l2.markDirty(table)
    this.l2.orderAfterFlush()
  }

  writeBack(): Wait {
    return this.l1.isDirty || this.l2.isDirty || this.mutex.locked
      ? this.mutex.run(() => writeLevels(this.l1, this.l2))
      : undefined
  }

  /** Nothing is mapped any more. Mutex held, nothing in flight. */
  async clear(): Promise<void> {
    const empty = new Uint8Array(this.l1.bytes.length)
    this.l2.clear()
    this.l1.replace(this.l1.offset, empty)
    await this.#file.node.write(this.l1.offset, empty.length, empty, 0, 0)
    await this.#file.node.flush()
    this.#prepared = false
  }
}
