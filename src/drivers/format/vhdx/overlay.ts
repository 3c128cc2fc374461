import type { IoNode } from '../../../io/index.js'
import type { LogWrite } from './log-entry.js'

/** The image file as it is once its log is replayed, for those who may not replay it. */
export class ReplayedFile {
  readonly #file: IoNode
  readonly writes: readonly LogWrite[]

  constructor(file: IoNode, writes: readonly LogWrite[]) {
    this.#file = file
    this.writes = writes
  }

  /** Bytes. */
  get length(): number {
    return this.#file.length
  }

  /** Fills `into`; what lies past the end of the file reads as zeroes. `offset` is a safe integer. */
  async read(offset: number, into: Uint8Array): Promise<Uint8Array> {
    const file = this.#file
    const inside = Math.max(0, Math.min(into.length, file.length - offset))
    into.fill(0, inside)
    if (inside > 0) {
      await file.read(offset, inside, into, 0, 0)
    }
    for (const write of this.writes) {
      const from = Math.max(offset, write.offset)
      const to = Math.min(offset + into.length, write.offset + write.bytes)
      if (from >= to) {
        continue
      }
      if (write.data === undefined) {
        into.fill(0, from - offset, to - offset)
      } else {
        into.set(write.data.subarray(from - write.offset, to - write.offset), from - offset)
      }
    }
    return into
  }
}
