import { readU32LE, writeU32LE } from '../../../bytes/index.js'
import { logSectorBytes, mebibyte } from './layout.js'

/** Largest block table that is taken into memory. */
export const maxTableBytes = 64 * mebibyte

const unit = 2 ** 32

/** The block table in memory as it stands in the file, 8 bytes an entry: state in three bits, place in MiB from bit 20 on. */
export class Bat {
  /** Whole log sectors. */
  readonly bytes: Uint8Array
  readonly entries: number
  /** Place in the file, bytes. */
  readonly offset: number
  readonly #dirty = new Set<number>()

  constructor(bytes: Uint8Array, entries: number, offset: number) {
    this.bytes = bytes
    this.entries = entries
    this.offset = offset
  }

  get isDirty(): boolean {
    return this.#dirty.size !== 0
  }

  state(index: number): number {
    return (this.bytes[index * 8] as number) & 7
  }

  /** Place of the block, bytes; may be greater than any file. */
  place(index: number): number {
    const low = readU32LE(this.bytes, index * 8)
    return readU32LE(this.bytes, index * 8 + 4) * unit + (low - (low % mebibyte))
  }

  /** @param place bytes, whole MiB */
  set(index: number, state: number, place: number): void {
    writeU32LE(this.bytes, index * 8, (place % unit) + state)
    writeU32LE(this.bytes, index * 8 + 4, Math.floor(place / unit))
    this.#dirty.add(Math.floor((index * 8) / logSectorBytes))
  }

  /** Copies of the sectors that changed, which count as written from now on. */
  takeChanges(): { offset: number; data: Uint8Array }[] {
    const taken = [...this.#dirty].map((sector) => ({
      offset: this.offset + sector * logSectorBytes,
      data: this.bytes.slice(sector * logSectorBytes, (sector + 1) * logSectorBytes),
    }))
    this.#dirty.clear()
    return taken
  }

  restore(changes: readonly { readonly offset: number }[]): void {
    for (const { offset } of changes) {
      this.#dirty.add((offset - this.offset) / logSectorBytes)
    }
  }
}
