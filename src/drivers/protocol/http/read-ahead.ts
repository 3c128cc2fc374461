import type { Wait } from '../../../sched/index.js'

/** Bytes that are kept at least. */
const budgetBytes = 16 << 20
/** Bytes that one request asks for at most, and that are read ahead at most. */
const maxRunBytes = 2 << 20

export type Fetch = (offset: number, bytes: number, take: (piece: Uint8Array) => void) => Promise<void>

interface Chunk {
  readonly data: Uint8Array
  /** While it is being fetched. */
  arrival: Promise<void> | undefined
}

/**
 * Keeps what was read in chunks, least recently used first out, and reads ahead of whoever reads in order:
 * the further he gets, the more requests run before him. A chunk is never fetched twice at a time.
 */
export class ReadAhead {
  readonly #fetch: Fetch
  readonly #length: number
  readonly #chunkBytes: number
  readonly #maxChunks: number
  /** By number; the order of a Map is that of use. */
  readonly #chunks = new Map<number, Chunk>()
  /** Chunk at which a reader in order would go on, and how many chunks are read before him. */
  #expected = -1
  #ahead = 0

  /** @param chunkBytes a multiple of 512 */
  constructor(fetch: Fetch, length: number, chunkBytes: number) {
    this.#fetch = fetch
    this.#length = length
    this.#chunkBytes = chunkBytes
    this.#maxChunks = Math.max(2, Math.ceil(budgetBytes / chunkBytes))
  }

  /** Reads a range inside the file. At once if all of it is here. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const size = this.#chunkBytes
    const first = Math.floor(offset / size)
    const end = Math.ceil((offset + bytes) / size)
    this.#foresee(first, end)
    let ready = true
    for (let i = first; i < end && ready; i++) {
      const chunk = this.#chunks.get(i)
      ready = chunk !== undefined && chunk.arrival === undefined
    }
    if (!ready) {
      return this.#readSlow(offset, bytes, buffer, bufferOffset)
    }
    for (let i = first; i < end; i++) {
      this.#copy(i, this.#touch(i), offset, bytes, buffer, bufferOffset)
    }
    return undefined
  }

  async #readSlow(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    const size = this.#chunkBytes
    const end = Math.ceil((offset + bytes) / size)
    const window = Math.max(1, Math.floor((this.#maxChunks * size) / 2 / size))
    // Requests that are longer than what is kept go through it piece by piece.
    for (let at = Math.floor(offset / size); at < end; at += window) {
      const stop = Math.min(end, at + window)
      this.#start(at, stop)
      // Held, so that whoever else reads cannot push them out before they are copied.
      const held = Array.from({ length: stop - at }, (_, i) => this.#touch(at + i))
      for (const [i, chunk] of held.entries()) {
        await chunk.arrival
        this.#copy(at + i, chunk, offset, bytes, buffer, bufferOffset)
      }
    }
    this.#evict()
  }

  #copy(index: number, { data }: Chunk, offset: number, bytes: number, buffer: Uint8Array, at: number): void {
    const start = index * this.#chunkBytes
    const from = Math.max(offset, start)
    const to = Math.min(offset + bytes, start + data.length)
    buffer.set(data.subarray(from - start, to - start), at + from - offset)
  }

  /** The chunk, now the last to go. It exists. */
  #touch(index: number): Chunk {
    const chunk = this.#chunks.get(index) as Chunk
    this.#chunks.delete(index)
    this.#chunks.set(index, chunk)
    return chunk
  }

  /** Begins what a reader in order will want. */
  #foresee(first: number, end: number): void {
    if (first !== this.#expected && first !== this.#expected - 1) {
      this.#ahead = 0
    } else if (end > this.#expected) {
      const most = Math.max(
        1,
        Math.floor(Math.min(this.#maxChunks / 2, (4 * maxRunBytes) / this.#chunkBytes)),
      )
      this.#ahead = Math.min(most, Math.max(1, this.#ahead * 2))
      this.#start(end, Math.min(Math.ceil(this.#length / this.#chunkBytes), end + this.#ahead))
      this.#evict()
    }
    this.#expected = end
  }

  /** Begins to fetch the chunks from `first` to `end` that are not there, neighbours in one request. */
  #start(first: number, end: number): void {
    const most = Math.max(1, Math.floor(maxRunBytes / this.#chunkBytes))
    let run: number[] = []
    for (let i = first; i <= end; i++) {
      const missing = i < end && !this.#chunks.has(i)
      if (run.length > 0 && (!missing || run.length === most)) {
        this.#fetchRun(run)
        run = []
      }
      if (missing) {
        run.push(i)
      }
    }
  }

  #fetchRun(indices: readonly number[]): void {
    const size = this.#chunkBytes
    const start = (indices[0] as number) * size
    const bytes = Math.min(indices.length * size, this.#length - start)
    const chunks = indices.map((index, i): Chunk => {
      const chunk = { data: new Uint8Array(Math.min(size, bytes - i * size)), arrival: undefined }
      this.#chunks.set(index, chunk)
      return chunk
    })
    let filled = 0
    const arrival = this.#fetch(start, bytes, (piece) => {
      for (let used = 0; used < piece.length; ) {
        const { data } = chunks[Math.floor(filled / size)] as Chunk
        const part = piece.subarray(used, used + data.length - (filled % size))
        data.set(part, filled % size)
        used += part.length
        filled += part.length
      }
    }).then(
      () => {
        for (const chunk of chunks) {
          chunk.arrival = undefined
        }
      },
      (error: unknown) => {
        for (const [i, index] of indices.entries()) {
          // The next reader tries again.
          if (this.#chunks.get(index) === chunks[i]) {
            this.#chunks.delete(index)
          }
        }
        throw error
      },
    )
    // Nobody may be waiting for what is read ahead.
    arrival.catch(() => undefined)
    for (const chunk of chunks) {
      chunk.arrival = arrival
    }
  }

  #evict(): void {
    for (const [index, chunk] of this.#chunks) {
      if (this.#chunks.size <= this.#maxChunks) {
        return
      }
      if (chunk.arrival === undefined) {
        this.#chunks.delete(index)
      }
    }
  }
}
