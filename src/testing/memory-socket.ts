import { ioError } from '../errors/index.js'
import type { HostSocket } from '../host/index.js'
import type { Wait } from '../sched/index.js'

/** One end of a connection in memory. What is written arrives at once, or in pieces of `pieceBytes`. */
export class MemorySocket implements HostSocket {
  onReadable: (() => void) | undefined = undefined
  engaged = false
  paused = false
  /** Most bytes that one read gives; small numbers try a parser. */
  pieceBytes = Number.POSITIVE_INFINITY
  #peer: MemorySocket | undefined = undefined
  readonly #chunks: Uint8Array[] = []
  #ended = false
  #destroyed = false

  /** Two ends of one connection. */
  static pair(): [MemorySocket, MemorySocket] {
    const a = new MemorySocket()
    const b = new MemorySocket()
    a.#peer = b
    b.#peer = a
    return [a, b]
  }

  /** Whether this end was dropped. */
  get destroyed(): boolean {
    return this.#destroyed
  }

  read(buffer: Uint8Array, offset: number, bytes: number): number | undefined {
    const [chunk] = this.#chunks
    if (chunk === undefined) {
      return this.#ended || this.#destroyed ? 0 : undefined
    }
    const count = Math.min(bytes, chunk.length, this.pieceBytes)
    buffer.set(chunk.subarray(0, count), offset)
    if (count === chunk.length) {
      this.#chunks.shift()
    } else {
      this.#chunks[0] = chunk.subarray(count)
    }
    if (this.#chunks.length > 0 || this.#ended) {
      this.#tell()
    }
    return count
  }

  write(buffer: Uint8Array, offset: number, bytes: number): Wait {
    const peer = this.#peer
    if (this.#destroyed || peer === undefined || peer.#destroyed) {
      throw ioError('EPIPE')
    }
    peer.#chunks.push(buffer.slice(offset, offset + bytes))
    peer.#tell()
    return undefined
  }

  #tell(): void {
    queueMicrotask(() => {
      if (!this.paused) {
        this.onReadable?.()
      }
    })
  }

  startTls(): Promise<HostSocket> {
    return Promise.reject(ioError('ENOTSUP'))
  }

  end(): void {
    if (this.#peer !== undefined) {
      this.#peer.#ended = true
      this.#peer.#tell()
    }
  }

  destroy(): void {
    if (!this.#destroyed) {
      this.#destroyed = true
      this.end()
    }
  }
}
