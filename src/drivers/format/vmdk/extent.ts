import { readU32LE, writeU32LE } from '../../../bytes/index.js'
import { ioError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import { type BlockChild, hasZeroInit } from '../../../graph/index.js'
import { sectorBytes } from './sparse-header.js'

/** What is common to the parts of a disk. */
interface ExtentPlace {
  readonly file: BlockChild
  /** Guest range, bytes. The last extent of a disk may grow. */
  readonly start: number
  length: number
  /** As in the descriptor; empty for an image that is one sparse extent. */
  readonly kind: string
}

/** A part that stands in its file as it is. */
export interface FlatExtent extends ExtentPlace {
  readonly flat: true
  /** Where it begins in the file, bytes. */
  readonly offset: number
}

export type Extent = FlatExtent | SparseExtent

/** Entries of a grain table that are no places. */
export const unallocated = 0
export const zeroed = 1

/** Tables kept per extent: 8 MiB of those with 512 entries. */
const keptTables = 4096

interface GrainTable {
  readonly bytes: Uint8Array
  dirty: boolean
}

/** How the tables of a kind of sparse extent are found and read. */
export interface TableLayout {
  readonly entries: number
  readonly entryBytes: 4 | 8
  /** Tables of the extent. */
  readonly count: number
  /** Where a table stands, bytes; undefined: it is not there. @throws BlockError EIO */
  offset(index: number): number | undefined
  /** Where its copy stands, bytes; undefined: there is none. */
  copyOffset(index: number): number | undefined
  /** {@link unallocated}, {@link zeroed}, or the grain's sector. @throws BlockError EIO */
  entry(table: Uint8Array, index: number): number
}

export interface SparseExtentParts extends ExtentPlace {
  /** The directory cannot be made longer: its place is not in a header of this extent. */
  readonly layoutIsFixed: boolean
  /** Bytes. */
  readonly grainBytes: number
  readonly tables: TableLayout
  readonly compressed: boolean
  readonly hasMarkers: boolean
  readonly zeroGrains: boolean
}

/** A part whose grains are found by tables. Tables are read when they are needed and written at a flush. */
export class SparseExtent implements ExtentPlace {
  readonly flat = false
  readonly file: BlockChild
  readonly start: number
  length: number
  readonly kind: string
  readonly layoutIsFixed: boolean
  readonly grainBytes: number
  readonly compressed: boolean
  readonly hasMarkers: boolean
  readonly zeroGrains: boolean
  #layout: TableLayout
  /** By number; the one used longest ago first. */
  readonly #tables = new Map<number, GrainTable>()
  readonly #loading = new Map<number, Promise<void>>()
  readonly #spare: number[] = []
  /** Where the next grain goes, sectors. */
  next: number
  #dirtyTables = 0
  #grown = false

  constructor(parts: SparseExtentParts) {
    this.file = parts.file
    this.start = parts.start
    this.length = parts.length
    this.kind = parts.kind
    this.layoutIsFixed = parts.layoutIsFixed
    this.grainBytes = parts.grainBytes
    this.compressed = parts.compressed
    this.hasMarkers = parts.hasMarkers
    this.zeroGrains = parts.zeroGrains
    this.#layout = parts.tables
    const grain = parts.grainBytes / sectorBytes
    this.next = Math.ceil(Math.ceil(parts.file.node.length / sectorBytes) / grain) * grain
  }

  /** Where the file ends when its last new grain is whole, bytes; 0 if nothing was added. */
  get end(): number {
    return this.#grown ? this.next * sectorBytes : 0
  }

  /** The extent is longer now, and has more tables behind those it had. */
  grown(length: number, layout: TableLayout): void {
    this.length = length
    this.#layout = layout
  }

  get isDirty(): boolean {
    return this.#dirtyTables > 0
  }

  /** Bytes of grain `index` that the disk shows. */
  grainLength(index: number): number {
    return Math.min(this.grainBytes, this.length - index * this.grainBytes)
  }

  /** Whether the table of grain `index` is in memory, or not in the file. */
  hasTable(index: number): boolean {
    const table = Math.floor(index / this.#layout.entries)
    return this.#tables.has(table) || this.#layout.offset(table) === undefined
  }

  /** {@link unallocated}, {@link zeroed}, or the grain's sector. Its table is in memory ({@link hasTable}). */
  entry(index: number): number {
    const { entries } = this.#layout
    const number = Math.floor(index / entries)
    const table = this.#tables.get(number)
    return table === undefined ? unallocated : this.#layout.entry(table.bytes, index % entries)
  }

  /** Whether there is a table that {@link set} could write to. */
  canSet(index: number): boolean {
    return this.#layout.offset(Math.floor(index / this.#layout.entries)) !== undefined
  }

  /** The first grain behind the table of grain `index`. */
  tableEnd(index: number): number {
    const { entries } = this.#layout
    return (Math.floor(index / entries) + 1) * entries
  }

  /** Changes the entry of a grain whose table is in memory. */
  set(index: number, entry: number): void {
    const { entries } = this.#layout
    const table = this.#tables.get(Math.floor(index / entries)) as GrainTable
    writeU32LE(table.bytes, (index % entries) * 4, entry)
    if (!table.dirty) {
      table.dirty = true
      this.#dirtyTables++
    }
  }

  /** Reads the table of grain `index`. */
  load(index: number): Promise<void> {
    const number = Math.floor(index / this.#layout.entries)
    let loading = this.#loading.get(number)
    if (loading === undefined) {
      loading = this.#read(number).finally(() => this.#loading.delete(number))
      this.#loading.set(number, loading)
    }
    return loading
  }

  async #read(number: number): Promise<void> {
    const offset = this.#layout.offset(number)
    if (offset === undefined || this.#tables.has(number)) {
      return
    }
    const bytes = new Uint8Array(this.#layout.entries * this.#layout.entryBytes)
    await readPadded(this.file.node, offset, bytes)
    for (const [oldest, { dirty }] of this.#tables) {
      if (this.#tables.size < keptTables) {
        break
      }
      if (!dirty) {
        this.#tables.delete(oldest)
      }
    }
    this.#tables.set(number, { bytes, dirty: false })
  }

  /** A place for a grain, sectors. */
  take(): { sector: number; isZero: boolean } {
    const spare = this.#spare.pop()
    if (spare !== undefined) {
      return { sector: spare, isZero: false }
    }
    const sector = this.next
    this.#grown = true
    this.next += this.grainBytes / sectorBytes
    return { sector, isZero: hasZeroInit(this.file.node) }
  }

  giveBack(sector: number): void {
    this.#spare.push(sector)
  }

  /** Writes the tables that have changed, each copy before the table itself. What they refer to is durable. */
  async writeTables(): Promise<void> {
    const { node } = this.file
    for (const [number, table] of this.#tables) {
      if (!table.dirty) {
        continue
      }
      table.dirty = false
      this.#dirtyTables--
      try {
        const bytes = table.bytes.slice()
        for (const offset of [this.#layout.copyOffset(number), this.#layout.offset(number)]) {
          if (offset !== undefined) {
            await node.write(offset, bytes.length, bytes, 0, 0)
          }
        }
      } catch (error) {
        if (!table.dirty) {
          table.dirty = true
          this.#dirtyTables++
        }
        throw error
      }
    }
  }
}

/** Tables of hosted sparse and COWD extents: 32-bit sectors. */
export function directoryLayout(
  directory: Uint8Array,
  copy: Uint8Array | undefined,
  entries: number,
  zeroGrains: boolean,
): TableLayout {
  const place = (from: Uint8Array, index: number): number | undefined => {
    const sector = index * 4 + 4 <= from.length ? readU32LE(from, index * 4) : 0
    return sector === 0 ? undefined : sector * sectorBytes
  }
  return {
    entries,
    entryBytes: 4,
    count: Math.floor(directory.length / 4),
    offset: (index) => place(directory, index),
    copyOffset: (index) => (copy === undefined ? undefined : place(copy, index)),
    entry(table, index) {
      const sector = readU32LE(table, index * 4)
      // Without zeroed grains sector 1 would be a place like any other, but the header's descriptor is there.
      if (sector === zeroed && !zeroGrains) {
        throw ioError('EIO')
      }
      return sector
    },
  }
}
