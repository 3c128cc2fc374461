import type { BlockChild } from '../graph/index.js'
import { attempt } from '../sched/index.js'
import type { TableCache } from './table-cache.js'

/** Bytes of a table that are written together. */
const pieceBytes = 4096

/** A part of a table as it was at some time. */
export interface TablePiece {
  readonly index: number
  readonly bytes: Uint8Array
}

/**
 * A table of an image that is in memory as it stands in the file. Changes stay in memory until they are
 * taken and written, so that what they refer to can be made durable first.
 */
export class LoadedTable {
  readonly #file: BlockChild
  #bytes: Uint8Array
  #offset: number
  readonly #dirty = new Set<number>()

  /**
   * @param offset place in the file, bytes
   * @param bytes the table, which this object keeps
   */
  constructor(file: BlockChild, offset: number, bytes: Uint8Array) {
    this.#file = file
    this.#offset = offset
    this.#bytes = bytes
  }

  /** The table itself; whoever changes it says where with {@link changed}. */
  get bytes(): Uint8Array {
    return this.#bytes
  }

  /** Place in the file, bytes. */
  get offset(): number {
    return this.#offset
  }

  get isDirty(): boolean {
    return this.#dirty.size !== 0
  }

  /** The bytes at `at` (one aligned field of at most 8 bytes) are others now. */
  changed(at: number): void {
    this.#dirty.add(Math.floor(at / pieceBytes))
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

  /** Takes another table in this one's place, which is in the file already. Nothing of this one is kept. */
  replace(offset: number, bytes: Uint8Array): void {
    this.#offset = offset
    this.#bytes = bytes
    this.#dirty.clear()
  }

  /** As {@link replace} by a longer copy of this table; what changed after it was copied is carried over. */
  moveTo(offset: number, bytes: Uint8Array): void {
    const old = this.#bytes
    this.replace(offset, bytes)
    for (let at = 0; at < Math.min(old.length, bytes.length); at++) {
      if (bytes[at] !== old[at]) {
        bytes[at] = old[at] as number
        this.changed(at)
      }
    }
  }
}

/**
 * Writes what has changed in both levels of tables: what the first refers to is durable before it says so.
 * Nobody may change the second level meanwhile; what is not written stays dirty.
 */
export async function writeLevels(first: LoadedTable, second: TableCache): Promise<void> {
  const changes = first.takeChanges()
  try {
    const wait = changes.length === 0 ? second.writeBack() : second.flush()
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    first.restore(changes)
    throw error
  }
  await first.write(changes)
}
