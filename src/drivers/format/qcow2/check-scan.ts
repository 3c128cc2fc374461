import type { ReferenceCounts, StoredRefcounts } from './check-counts.js'
import { EntryHigh, tableEntryBytes } from './constants.js'

/** Upper bits that an entry of plain data does not have: compressed, reserved. */
const specialHigh = 0x7f000000

/** What an L2 table adds to the figures about the guest's clusters. */
export interface TableFigures {
  allocated: number
  fragmented: number
  /** Host offset behind the last cluster; 0 before the first one. */
  nextContiguous: number
}

/**
 * The quick half of the look through an L2 table: whole runs of entries that are nothing, or data in an
 * aligned cluster, as nearly all are. It does not wait, so that it becomes machine code early.
 */
export class TableScan {
  readonly #view: DataView
  /** For finding zeroes, which are the same in any byte order. */
  readonly #words: Int32Array
  readonly #clusterSize: number
  readonly #end: number

  /** @param table begins on a boundary of 4 in its buffer; what is cut off at its end is not looked at */
  constructor(table: Uint8Array, clusterSize: number) {
    this.#view = new DataView(table.buffer, table.byteOffset, table.byteLength)
    this.#words = new Int32Array(table.buffer, table.byteOffset, table.byteLength >> 2)
    this.#clusterSize = clusterSize
    this.#end = table.length - (table.length % tableEntryBytes)
  }

  /** Where the first entry from byte `from` on stands that is not zero, or the end. */
  #skipEmpty(from: number): number {
    const words = this.#words
    const end = this.#end >> 2
    let at = from >> 2
    for (; at + 8 <= end; at += 8) {
      const first = (words[at] as number) | (words[at + 1] as number) | (words[at + 2] as number)
      const second = (words[at + 3] as number) | (words[at + 4] as number) | (words[at + 5] as number)
      if ((first | second | (words[at + 6] as number) | (words[at + 7] as number)) !== 0) {
        break
      }
    }
    while (at < end && ((words[at] as number) | (words[at + 1] as number)) === 0) {
      at += 2
    }
    return at << 2
  }

  /** Counts entries from byte `from` on; returns where one stands that needs a closer look, or the end. */
  count(from: number, counts: ReferenceCounts, fileLength: number, figures: TableFigures): number {
    const clusterSize = this.#clusterSize
    const words = this.#words
    let at = from
    for (; at < this.#end; at += tableEntryBytes) {
      if (((words[at >> 2] as number) | (words[(at >> 2) + 1] as number)) === 0) {
        at = this.#skipEmpty(at) - tableEntryBytes
        continue
      }
      const high = this.#view.getUint32(at)
      const low = this.#view.getUint32(at + 4)
      if ((high & specialHigh) !== 0 || (low & (clusterSize - 1)) !== 0) {
        return at
      }
      const offset = (high & EntryHigh.offset) * 0x100000000 + low
      if (offset === 0 || offset >= fileLength || !counts.add(offset / clusterSize)) {
        return at
      }
      figures.allocated++
      if (figures.nextContiguous !== 0 && offset !== figures.nextContiguous) {
        figures.fragmented++
      }
      figures.nextContiguous = offset + clusterSize
    }
    return at
  }

  /** Where the next entry from byte `from` on stands whose COPIED flag needs a closer look, or the end. */
  nextDoubtfulFlag(from: number, stored: StoredRefcounts): number {
    const clusterSize = this.#clusterSize
    const words = this.#words
    let at = from
    for (; at < this.#end; at += tableEntryBytes) {
      if (((words[at >> 2] as number) | (words[(at >> 2) + 1] as number)) === 0) {
        at = this.#skipEmpty(at) - tableEntryBytes
        continue
      }
      const high = this.#view.getUint32(at)
      const low = this.#view.getUint32(at + 4)
      const offset = (high & EntryHigh.offset) * 0x100000000 + low
      const plain = high >>> 24 === 0x80 && (low & (clusterSize - 1)) === 0 && offset !== 0
      if (!plain || stored.peek(offset / clusterSize) !== 1) {
        return at
      }
    }
    return at
  }
}
