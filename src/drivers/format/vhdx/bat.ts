import { readU32LE, writeU32LE } from '../../../bytes/index.js'
import { logSectorBytes, mebibyte } from './layout.js'

/** Largest block table that is taken into memory. */
export const maxTableBytes = 64 * mebibyte

const unit = 2 ** 32

/** The block table in memory as it stands in the file, 8 bytes an entry: state in three bits, place in MiB from bit 20 on. */
export class Bat {
  #bytes: Uint8Array
  #entries: number
  #offset: number
  readonly #dirty = new Set<number>()

  constructor(bytes: Uint8Array, entries: number, offset: number) {
    this.#bytes = bytes
    this.#entries = entries
    this.#offset = offset
  }

  /** Whole log sectors. */
  get bytes(): Uint8Array {
    return this.#bytes
  }

  get entries(): number {
    return this.#entries
  }

  /** Place in the file, bytes. */
  get offset(): number {
    return this.#offset
  }

  /** More entries in the same place; who calls sets them. @param bytes whole log sectors */
  extend(entries: number, bytes: number): void {
    if (bytes > this.#bytes.length) {
      const longer = new Uint8Array(bytes)
      longer.set(this.#bytes)
      this.#bytes = longer
    }
    this.#entries = entries
  }

  /** Another table takes this one's place, which is in the file already. */
  replace(bytes: Uint8Array, entries: number, offset: number): void {
    this.#bytes = bytes
    this.#entries = entries
    this.#offset = offset
    this.#dirty.clear()
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
