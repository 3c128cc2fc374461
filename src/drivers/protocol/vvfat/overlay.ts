import type { HostFile, HostFiles } from '../../../host/index.js'
import type { Wait } from '../../../sched/index.js'
import { sectorBytes } from './geometry.js'

/**
 * What a guest has written, sector by sector: a sparse temporary file with everything in its place, gone from its
 * folder as soon as it is open. Offsets and lengths are bytes and multiples of {@link sectorBytes}.
 */
export class Overlay {
  readonly #file: HostFile
  /** One byte a sector: 0 not here, 1 here, 2 here and written since {@link settle}. */
  readonly #state: Uint8Array
  /** End of what has been written, bytes. */
  end = 0
  /** Whether anything has been written since {@link settle}. */
  dirty = false

  private constructor(file: HostFile, sectors: number) {
    this.#file = file
    this.#state = new Uint8Array(sectors)
  }

  /** @throws BlockError if there is no room for temporary files */
  static async open(files: HostFiles, sectors: number): Promise<Overlay> {
    const path = files.createTemporary('vl')
    try {
      return new Overlay(await files.open(path, { write: true }), sectors)
    } finally {
      files.unlink(path)
    }
  }

  /** How far from `offset` on, at most `bytes`, all is here or nothing is. */
  run(offset: number, bytes: number): { readonly here: boolean; readonly bytes: number } {
    const first = offset / sectorBytes
    const end = (offset + bytes) / sectorBytes
    const here = this.#state[first] !== 0
    let sector = first + 1
    while (sector < end && (this.#state[sector] !== 0) === here) {
      sector++
    }
    return { here, bytes: (sector - first) * sectorBytes }
  }

  /** Whether anything in the range was written since {@link settle}. */
  changed(offset: number, bytes: number): boolean {
    const from = offset / sectorBytes
    return this.#state.subarray(from, from + bytes / sectorBytes).includes(2)
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#file.read(offset, bytes, buffer, bufferOffset)
  }

  /** Takes a guest's write. */
  async write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    await this.#file.write(offset, bytes, buffer, bufferOffset)
    this.#mark(offset, bytes, 2)
    this.dirty = true
  }

  /** Takes what stood there before and is about to go, which is no change. */
  async keep(offset: number, bytes: number, buffer: Uint8Array): Promise<void> {
    await this.#file.write(offset, bytes, buffer, 0)
    this.#mark(offset, bytes, 1)
  }

  #mark(offset: number, bytes: number, state: number): void {
    this.#state.fill(state, offset / sectorBytes, (offset + bytes) / sectorBytes)
    this.end = Math.max(this.end, offset + bytes)
  }

  /** The folder has everything written so far. */
  settle(): void {
    for (let i = 0; i < this.#state.length; i++) {
      if (this.#state[i] === 2) {
        this.#state[i] = 1
      }
    }
    this.dirty = false
  }

  close(): Wait {
    return this.#file.close()
  }
}
