import { afterEvent, type DebugEvent, type IoNode } from '../io/index.js'
import { both, type Maybe, type Wait } from '../sched/index.js'

/**
 * A metadata table in memory, as the raw bytes of the image. Whoever changes it calls
 * {@link TableCache.markDirty} in the same synchronous block.
 *
 * A table obtained from the cache may be evicted at the next await, unless it is pinned.
 */
export class CachedTable {
  /** Where the table lives in the file, bytes. */
  readonly offset: number
  readonly bytes: Uint8Array
  readonly view: DataView
  /** @internal */
  dirty = false
  /** @internal Users that hold it across an await. */
  pins = 0
  /** @internal Neighbours in the order of use. */
  newer: CachedTable | undefined = undefined
  /** @internal */
  older: CachedTable | undefined = undefined

  constructor(offset: number, bytes: Uint8Array) {
    this.offset = offset
    this.bytes = bytes
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
}

/** The edge to the file: the node at its end may be replaced while the cache is in use. */
export interface TableFile {
  readonly node: IoNode
  /** Makes durable what was written elsewhere, where the tables refer to another file. */
  flushData?(): Wait
}

interface Pending {
  readonly table: CachedTable
  promise: Promise<CachedTable>
  /** The table was discarded while it was being read: it must not enter the cache. */
  orphan: boolean
}

/** What those who debug the file are told before a table is read or written. */
export interface TableEvents {
  readonly load: DebugEvent
  readonly update: DebugEvent
}

/** Table writes handed to the file at a time. */
const writesInFlight = 32

/**
 * Write-back cache of metadata tables of one size, least recently used first out.
 *
 * Order on disk is kept between two caches of a file: {@link orderAfter} makes every later write of
 * this cache wait until the other cache's changes are durable, and {@link orderAfterFlush} until
 * everything written to the file so far is. One such condition is pending at a time; what would
 * need two is resolved by flushing first.
 *
 * Concurrency: nobody may change tables while `writeBack`, `flush`, `orderAfter`, `create` or `load`
 * is awaited, so a driver calls them with its metadata mutex held. Looking tables up is always allowed.
 * If a write fails, what could not be written stays dirty and the condition stays pending.
 */
export class TableCache {
  readonly tableBytes: number
  readonly #file: TableFile
  readonly #events: TableEvents | undefined
  #capacity: number
  readonly #tables = new Map<number, CachedTable>()
  readonly #pending = new Map<number, Pending>()
  readonly #dirty = new Set<CachedTable>()
  #newest: CachedTable | undefined = undefined
  #oldest: CachedTable | undefined = undefined
  #spare: Uint8Array | undefined = undefined
  /** See {@link dropUnused}. */
  #marker: CachedTable | undefined = undefined
  #dependency: TableCache | undefined = undefined
  #afterFlush = false

  /**
   * @param tableBytes size of each table
   * @param capacity tables kept, at least 2; more only while more are pinned
   * @param events names of reads and writes for those who debug the file
   */
  constructor(file: TableFile, tableBytes: number, capacity: number, events?: TableEvents) {
    this.#file = file
    this.#events = events
    this.tableBytes = tableBytes
    this.#capacity = Math.max(2, capacity)
  }

  get capacity(): number {
    return this.#capacity
  }

  /** Takes effect as tables are loaded. */
  set capacity(tables: number) {
    this.#capacity = Math.max(2, tables)
  }

  get isDirty(): boolean {
    return this.#dirty.size !== 0
  }

  /** Tables in memory. */
  get size(): number {
    return this.#tables.size
  }

  /** What must be durable before this cache is written, for tests: `'flush'`, a cache, or nothing. */
  get order(): TableCache | 'flush' | undefined {
    return this.#dependency ?? (this.#afterFlush ? 'flush' : undefined)
  }

  /** The table at `offset` if it is in memory. */
  get(offset: number): CachedTable | undefined {
    const newest = this.#newest
    if (newest !== undefined && newest.offset === offset) {
      return newest
    }
    const table = this.#tables.get(offset)
    if (table !== undefined) {
      this.#unlink(table)
      this.#link(table)
    }
    return table
  }

  /**
   * The table at `offset` if it is in memory or can be read at once. Otherwise the read may have been
   * started; {@link load} joins it. Throws if the read fails at once.
   */
  reach(offset: number): CachedTable | undefined {
    const table = this.get(offset)
    if (table !== undefined) {
      return table
    }
    if (this.#pending.has(offset) || !this.#makeRoom()) {
      return undefined
    }
    return this.#read(offset)
  }

  /** Whether {@link load} of `offset` will not write anything, so that no mutex is needed for it. */
  canLoad(offset: number): boolean {
    return this.#tables.has(offset) || this.#pending.has(offset) || this.#makeRoom()
  }

  /** The table at `offset`, pinned: give it back with {@link release}. */
  async load(offset: number): Promise<CachedTable> {
    for (;;) {
      const table = this.get(offset)
      if (table !== undefined) {
        table.pins++
        return table
      }
      const pending = this.#pending.get(offset)
      if (pending !== undefined) {
        pending.table.pins++
        return await pending.promise
      }
      if (this.#makeRoom()) {
        this.#read(offset)
      } else {
        const wait = this.writeBack()
        if (wait !== undefined) {
          await wait
        }
      }
    }
  }

  release(table: CachedTable): void {
    if (table.pins <= 0) {
      throw new Error('metadata table released twice')
    }
    table.pins--
  }

  /** A new table of zeroes at `offset`, dirty and pinned. Nothing is read. */
  create(offset: number): Maybe<CachedTable> {
    if (!this.#makeRoom()) {
      return this.#createSlow(offset)
    }
    this.discard(offset)
    const table = new CachedTable(offset, this.#buffer().fill(0))
    table.pins = 1
    this.#insert(table)
    this.markDirty(table)
    return table
  }

  async #createSlow(offset: number): Promise<CachedTable> {
    const wait = this.writeBack()
    if (wait !== undefined) {
      await wait
    }
    return await this.create(offset)
  }

  markDirty(table: CachedTable): void {
    if (!table.dirty) {
      table.dirty = true
      this.#dirty.add(table)
    }
  }

  /** Forgets the table at `offset` without writing it: its place in the file is no table any more. */
  discard(offset: number): void {
    const pending = this.#pending.get(offset)
    if (pending !== undefined) {
      pending.orphan = true
      this.#pending.delete(offset)
    }
    const table = this.#tables.get(offset)
    if (table !== undefined) {
      this.#remove(table)
      this.#dirty.delete(table)
      table.dirty = false
    }
  }

  /**
   * Lets go of the tables that nobody looked up since the last call. A marker in the order of use tells
   * them from the others, so that looking up costs nothing.
   */
  dropUnused(): void {
    const marker = this.#marker
    if (marker === undefined) {
      this.#marker = new CachedTable(-1, new Uint8Array(0))
      this.#marker.pins = 1
      this.#link(this.#marker)
      return
    }
    let table = this.#oldest
    while (table !== undefined && table !== marker) {
      const { newer } = table
      if (!table.dirty && table.pins === 0) {
        this.#remove(table)
      }
      table = newer
    }
    this.#spare = undefined
    this.#unlink(marker)
    this.#link(marker)
  }

  /** {@link discard} for every table in `[offset, +bytes)`. */
  discardRange(offset: number, bytes: number): void {
    for (let at = offset; at < offset + bytes; at += this.tableBytes) {
      this.discard(at)
    }
  }

  /** Forgets everything, changes included. */
  clear(): void {
    for (const offset of [...this.#pending.keys(), ...this.#tables.keys()]) {
      this.discard(offset)
    }
    this.#dependency = undefined
    this.#afterFlush = false
  }

  /** Whether {@link orderAfter} would do its work without I/O. */
  canOrderAfter(other: TableCache): boolean {
    return this.#dependency === other || (this.#dependency === undefined && other.#dependency === undefined)
  }

  /** From now on this cache is written only after `other` is durable. Flushes if that contradicts an earlier order. */
  orderAfter(other: TableCache): Wait {
    if (this.#dependency === other) {
      return undefined
    }
    if (this.#dependency === undefined && other.#dependency === undefined) {
      this.#dependency = other
      return undefined
    }
    return this.#orderSlow(other)
  }

  async #orderSlow(other: TableCache): Promise<void> {
    if (other.#dependency !== undefined) {
      await other.#settleOrder()
    }
    if (this.#dependency !== undefined) {
      await this.#settleOrder()
    }
    this.#dependency = other
  }

  /** This cache is written only after everything written to the file so far is durable. */
  orderAfterFlush(): void {
    this.#afterFlush = true
  }

  /** Makes durable what must be before this cache may be written. */
  async #settleOrder(): Promise<void> {
    const dependency = this.#dependency
    if (dependency !== undefined) {
      const wait = dependency.flush()
      if (wait !== undefined) {
        await wait
      }
    } else if (this.#afterFlush) {
      const wait = this.#file.node.flush()
      if (wait !== undefined) {
        await wait
      }
    }
    if (this.#afterFlush) {
      const data = this.#file.flushData?.()
      if (data !== undefined) {
        await data
      }
    }
    this.#dependency = undefined
    this.#afterFlush = false
  }

  /** Writes what has changed, after whatever it is ordered after is durable. */
  writeBack(): Wait {
    return this.#dirty.size === 0 ? undefined : this.#writeDirty()
  }

  async #writeDirty(): Promise<void> {
    if (this.#dependency !== undefined || this.#afterFlush) {
      await this.#settleOrder()
    }
    const tables = [...this.#dirty].sort((a, b) => a.offset - b.offset)
    for (let i = 0; i < tables.length; i += writesInFlight) {
      let wait: Wait
      try {
        for (const table of tables.slice(i, i + writesInFlight)) {
          wait = both(wait, this.#writeTable(table))
        }
      } catch (error) {
        if (wait !== undefined) {
          await wait.catch(() => undefined)
        }
        throw error
      }
      if (wait !== undefined) {
        await wait
      }
    }
  }

  #writeTable(table: CachedTable): Wait {
    const { node } = this.#file
    const wait =
      node.debug === undefined || this.#events === undefined
        ? node.write(table.offset, this.tableBytes, table.bytes, 0, 0)
        : afterEvent(node.debug, this.#events.update, () =>
            node.write(table.offset, this.tableBytes, table.bytes, 0, 0),
          )
    if (wait === undefined) {
      this.#clean(table)
      return undefined
    }
    return this.#cleanAfter(wait, table)
  }

  async #cleanAfter(wait: Promise<void>, table: CachedTable): Promise<void> {
    await wait
    this.#clean(table)
  }

  #clean(table: CachedTable): void {
    table.dirty = false
    this.#dirty.delete(table)
  }

  /** {@link writeBack}, durable when done. */
  flush(): Wait {
    const wait = this.writeBack()
    return wait === undefined ? this.#file.node.flush() : this.#flushAfter(wait)
  }

  async #flushAfter(wait: Promise<void>): Promise<void> {
    await wait
    const flushed = this.#file.node.flush()
    if (flushed !== undefined) {
      await flushed
    }
  }

  /**
   * Makes room for one more table if that needs no writing. Pinned tables stay: when nothing else is
   * left the cache grows beyond its capacity for a while.
   */
  #makeRoom(): boolean {
    while (this.#tables.size + this.#pending.size >= this.#capacity) {
      let victim = this.#oldest
      while (victim !== undefined && victim.pins !== 0) {
        victim = victim.newer
      }
      if (victim === undefined) {
        return true
      }
      if (victim.dirty) {
        return false
      }
      this.#remove(victim)
      this.#spare = victim.bytes
    }
    return true
  }

  #buffer(): Uint8Array {
    const spare = this.#spare
    this.#spare = undefined
    return spare ?? new Uint8Array(this.tableBytes)
  }

  /** Reads a table; undefined if that takes a while. */
  #read(offset: number): CachedTable | undefined {
    const table = new CachedTable(offset, this.#buffer())
    const { node } = this.#file
    const wait =
      node.debug === undefined || this.#events === undefined
        ? node.read(offset, this.tableBytes, table.bytes, 0, 0)
        : afterEvent(node.debug, this.#events.load, () =>
            node.read(offset, this.tableBytes, table.bytes, 0, 0),
          )
    if (wait === undefined) {
      this.#insert(table)
      return table
    }
    const pending: Pending = { table, promise: Promise.resolve(table), orphan: false }
    pending.promise = this.#arrive(wait, pending)
    // A failed read that nobody waits for any more is nobody's business.
    pending.promise.catch(() => undefined)
    this.#pending.set(offset, pending)
    return undefined
  }

  async #arrive(wait: Promise<void>, pending: Pending): Promise<CachedTable> {
    try {
      await wait
    } finally {
      if (!pending.orphan) {
        this.#pending.delete(pending.table.offset)
      }
    }
    if (!pending.orphan) {
      this.#insert(pending.table)
    }
    return pending.table
  }

  #insert(table: CachedTable): void {
    this.#tables.set(table.offset, table)
    this.#link(table)
  }

  #remove(table: CachedTable): void {
    this.#tables.delete(table.offset)
    this.#unlink(table)
  }

  #link(table: CachedTable): void {
    table.older = this.#newest
    table.newer = undefined
    if (this.#newest === undefined) {
      this.#oldest = table
    } else {
      this.#newest.newer = table
    }
    this.#newest = table
  }

  #unlink(table: CachedTable): void {
    if (table.newer === undefined) {
      this.#newest = table.older
    } else {
      table.newer.older = table.older
    }
    if (table.older === undefined) {
      this.#oldest = table.newer
    } else {
      table.older.newer = table.newer
    }
    table.newer = undefined
    table.older = undefined
  }
}
