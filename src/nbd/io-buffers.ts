/** Bytes of a pooled buffer: some replies of usual size, or one large one. */
export const pooledBytes = 512 * 1024
/** Buffers that are kept while nobody needs them. */
const keptBuffers = 16

/** Memory for messages, with a view for their numbers. Shared by counting. */
export class IoBuffer {
  readonly bytes: Uint8Array
  readonly view: DataView
  /** How many use it; the last gives it back. */
  users = 1

  constructor(bytes: number) {
    this.bytes = new Uint8Array(bytes)
    this.view = new DataView(this.bytes.buffer)
  }
}

/** Buffers of one size that the connections of a server share: one that is idle has none. */
export class IoBufferPool {
  readonly #free: IoBuffer[] = []
  /** Bytes of requests in flight, and of replies that are not sent, of all connections. */
  busyBytes = 0

  /** A buffer of at least `bytes`; its contents are anything. */
  take(bytes: number): IoBuffer {
    if (bytes > pooledBytes) {
      return new IoBuffer(bytes)
    }
    const buffer = this.#free.pop()
    if (buffer === undefined) {
      return new IoBuffer(pooledBytes)
    }
    buffer.users = 1
    return buffer
  }

  /** One user less. */
  drop(buffer: IoBuffer): void {
    if (--buffer.users === 0 && buffer.bytes.length === pooledBytes && this.#free.length < keptBuffers) {
      this.#free.push(buffer)
    }
  }
}
