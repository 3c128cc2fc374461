import { EntryHigh, tableEntryBytes } from './constants.js'
import { hostOffset } from './l2-entry.js'

const sectorBytes = 512

/** The active L1 table in memory, in the image's own byte order. At most 32 MiB. */
export class L1Table {
  #view: DataView
  /** Where it stands in the file; 0 if it has no entries. */
  offset: number

  constructor(offset: number, bytes: Uint8Array) {
    this.offset = offset
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** Entries. */
  get size(): number {
    return this.#view.byteLength / tableEntryBytes
  }

  /** Host offset of the L2 table of entry `index` < {@link size}; 0 if there is none. */
  tableOffset(index: number): number {
    const at = index * tableEntryBytes
    return hostOffset(this.#view.getUint32(at), this.#view.getUint32(at + 4))
  }

  /** Whether only this entry refers to its L2 table. */
  isCopied(index: number): boolean {
    return (this.#view.getUint32(index * tableEntryBytes) & EntryHigh.copied) !== 0
  }

  /** The entry's words, for {@link restore}. */
  entry(index: number): { high: number; low: number } {
    const at = index * tableEntryBytes
    return { high: this.#view.getUint32(at), low: this.#view.getUint32(at + 4) }
  }

  restore(index: number, entry: { high: number; low: number }): void {
    const at = index * tableEntryBytes
    this.#view.setUint32(at, entry.high)
    this.#view.setUint32(at + 4, entry.low)
  }

  /** Makes entry `index` the only reference to the L2 table at `offset`; 0 clears the entry. */
  set(index: number, offset: number): void {
    const at = index * tableEntryBytes
    const high = Math.floor(offset / 0x100000000)
    this.#view.setUint32(at, offset === 0 ? 0 : (high | EntryHigh.copied) >>> 0)
    this.#view.setUint32(at + 4, offset % 0x100000000)
  }

  /**
   * The 512 bytes of the table that hold entry `index`, with their place in it. Entries are written
   * by whole sectors, so that the layer below needs no read.
   */
  sectorOf(index: number): { at: number; bytes: Uint8Array } {
    const at = index * tableEntryBytes - ((index * tableEntryBytes) % sectorBytes)
    const bytes = new Uint8Array(sectorBytes)
    bytes.set(this.bytes.subarray(at, at + sectorBytes))
    return { at, bytes }
  }

  get bytes(): Uint8Array {
    return new Uint8Array(this.#view.buffer, this.#view.byteOffset, this.#view.byteLength)
  }

  /** Takes over a longer table. */
  replace(offset: number, bytes: Uint8Array): void {
    this.offset = offset
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
}
