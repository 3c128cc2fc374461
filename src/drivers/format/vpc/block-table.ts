import { readU32BE, writeU32BE } from '../../../bytes/index.js'
import type { BlockChild } from '../../../graph/index.js'
import { attempt } from '../../../sched/index.js'
import { sectorBytes } from './geometry.js'

/** Entry of a block that is not there. */
const unused = 0xffffffff

/** Entries of the largest table that is taken into memory: 64 MiB of it. */
export const maxTableEntries = 1 << 24

/** Bytes of the table that are written together. */
const pieceBytes = 4096

/** A part of the table as it was at some time. */
export interface TablePiece {
  readonly index: number
  readonly bytes: Uint8Array
}

/**
 * The block allocation table, all of it in memory as it stands in the file (4 bytes a block). Changes
 * stay in memory until they are taken and written.
 */
export class BlockTable {
  readonly #file: BlockChild
  #bytes: Uint8Array
  /** Place in the file, bytes. */
  #offset: number
  readonly #dirty = new Set<number>()

  /** @param bytes the table, which this object keeps; whole sectors behind the last entry may be part of it */
  constructor(file: BlockChild, offset: number, bytes: Uint8Array) {
    this.#file = file
    this.#offset = offset
    this.#bytes = bytes
  }

  get entries(): number {
    return Math.floor(this.#bytes.length / 4)
  }

  get isDirty(): boolean {
    return this.#dirty.size !== 0
  }

  get bytes(): Uint8Array {
    return this.#bytes
  }

  /** Where the block's bitmap begins, bytes; undefined if the block is not there. */
  blockOffset(index: number): number | undefined {
    const at = index * 4
    const bytes = this.#bytes
    const high = ((bytes[at] as number) << 8) | (bytes[at + 1] as number)
    const low = ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number)
    return high === 0xffff && low === 0xffff ? undefined : (high * 0x10000 + low) * sectorBytes
  }

  /** @param offset place of the bitmap, bytes; undefined: the block is not there any more */
  set(index: number, offset: number | undefined): void {
    writeU32BE(this.#bytes, index * 4, offset === undefined ? unused : offset / sectorBytes)
    this.#dirty.add(Math.floor((index * 4) / pieceBytes))
  }

  /** Ends of all blocks and the table: what lies beyond is free. Bytes. */
  end(blockBytes: number): number {
    let end = Math.ceil((this.#offset + this.#bytes.length) / sectorBytes) * sectorBytes
    for (let at = 0; at + 4 <= this.#bytes.length; at += 4) {
      const entry = readU32BE(this.#bytes, at)
      if (entry !== unused) {
        end = Math.max(end, entry * sectorBytes + blockBytes)
      }
    }
    return end
  }

  /**
   * Copies of what has changed, which counts as written from now on. A change after this is another one,
   * so who calls can make durable what these entries refer to and then {@link write} them.
   */
  takeChanges(): TablePiece[] {
    const pieces = [...this.#dirty].map((index) => ({
      index,
      bytes: this.#bytes.slice(index * pieceBytes, (index + 1) * pieceBytes),
    }))
    this.#dirty.clear()
    return pieces
  }

  /** Writes what {@link takeChanges} took; it counts as changed again if that fails. */
  async write(pieces: readonly TablePiece[]): Promise<void> {
    const results = await Promise.allSettled(
      pieces.map(({ index, bytes }) =>
        attempt(() => this.#file.node.write(this.#offset + index * pieceBytes, bytes.length, bytes, 0, 0)),
      ),
    )
    const failed = results.find((result) => result.status === 'rejected')
    if (failed !== undefined) {
      this.restore(pieces)
      throw failed.reason
    }
  }

  /** What {@link takeChanges} took is not written. */
  restore(pieces: readonly TablePiece[]): void {
    for (const { index } of pieces) {
      this.#dirty.add(index)
    }
  }

  /**
   * Takes another table in this one's place, which is in the file already. Entries that changed after
   * it was copied from this one are carried over.
   */
  replace(offset: number, bytes: Uint8Array): void {
    const old = this.#bytes
    this.#offset = offset
    this.#bytes = bytes
    this.#dirty.clear()
    for (let at = 0; at < Math.min(old.length, bytes.length); at++) {
      if (bytes[at] !== old[at]) {
        bytes[at] = old[at] as number
        this.#dirty.add(Math.floor(at / pieceBytes))
      }
    }
  }
}
