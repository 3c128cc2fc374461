import type { Wait } from '../sched/index.js'

/** Bytes of decoded chunks that are kept, and of chunks that are being decoded; one chunk always may. */
const budgetBytes = 80 << 20
/** Chunks kept, however small. */
const keptChunks = 64

/** Where a chunk's decoded bytes come from. */
export interface ChunkDecoder {
  /** Bytes of the decoded chunk. */
  size(chunk: number): number
  /** Bytes of memory that decoding takes besides the output. */
  cost(chunk: number): number
  /** Fills `output`, which has the chunk's size. Rejects with EIO if the chunk is corrupt. */
  decode(chunk: number, output: Uint8Array): Promise<void>
}

/**
 * Reads of chunks that have to be decoded as a whole. A few decoded ones are kept; one that is wanted as a
 * whole is decoded in the caller's buffer. Several may be decoded at a time, as far as memory goes.
 */
export class DecodedChunks {
  readonly #decoder: ChunkDecoder
  /** The one used longest ago first. */
  readonly #kept = new Map<number, Uint8Array>()
  readonly #decoding = new Map<number, Promise<Uint8Array>>()
  #keptBytes = 0
  #busyBytes = 0
  readonly #waiting: (() => void)[] = []

  constructor(decoder: ChunkDecoder) {
    this.#decoder = decoder
  }

  /** Fills the buffer with `bytes` bytes from `from` on of a decoded chunk. */
  read(chunk: number, from: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const kept = this.#kept.get(chunk)
    if (kept !== undefined) {
      this.#kept.delete(chunk)
      this.#kept.set(chunk, kept)
      buffer.set(kept.subarray(from, from + bytes), bufferOffset)
      return undefined
    }
    let decoding = this.#decoding.get(chunk)
    if (decoding === undefined) {
      if (bytes === this.#decoder.size(chunk)) {
        return this.#decode(chunk, buffer.subarray(bufferOffset, bufferOffset + bytes))
      }
      decoding = this.#decodeAndKeep(chunk)
      this.#decoding.set(chunk, decoding)
    }
    return decoding.then((data) => {
      buffer.set(data.subarray(from, from + bytes), bufferOffset)
    })
  }

  async #decode(chunk: number, output: Uint8Array): Promise<void> {
    const bytes = this.#decoder.cost(chunk) + this.#decoder.size(chunk)
    await this.#enter(bytes)
    try {
      await this.#decoder.decode(chunk, output)
    } finally {
      this.#leave(bytes)
    }
  }

  async #decodeAndKeep(chunk: number): Promise<Uint8Array> {
    const bytes = this.#decoder.cost(chunk) + this.#decoder.size(chunk)
    await this.#enter(bytes)
    try {
      const data = this.#room(chunk)
      await this.#decoder.decode(chunk, data)
      this.#kept.set(chunk, data)
      this.#keptBytes += data.length
      return data
    } finally {
      this.#decoding.delete(chunk)
      this.#leave(bytes)
    }
  }

  /** Waits until so many bytes may be in use at the same time as what is. */
  async #enter(bytes: number): Promise<void> {
    while (this.#busyBytes > 0 && this.#busyBytes + bytes > budgetBytes) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve)
      })
    }
    this.#busyBytes += bytes
  }

  #leave(bytes: number): void {
    this.#busyBytes -= bytes
    for (const wake of this.#waiting.splice(0)) {
      wake()
    }
  }

  /** A new buffer for a chunk, after making room among those kept. */
  #room(chunk: number): Uint8Array {
    const size = this.#decoder.size(chunk)
    for (const [oldest, data] of this.#kept) {
      if (this.#kept.size < keptChunks && this.#keptBytes + size <= budgetBytes) {
        break
      }
      this.#kept.delete(oldest)
      this.#keptBytes -= data.length
    }
    return new Uint8Array(size)
  }
}
