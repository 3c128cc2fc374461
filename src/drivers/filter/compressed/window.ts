import { ioError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'

/** Reads a file forwards with a buffer. Offsets are bytes. */
export class FileWindow {
  readonly #file: IoNode
  #buffer: Uint8Array
  /** Where in the file the buffer starts, and how much of it is filled. */
  #start: number
  #filled = 0
  position: number

  /** @param bytes the most that is asked for at once */
  constructor(file: IoNode, position: number, bytes = 1 << 18) {
    this.#file = file
    this.#start = position
    this.position = position
    this.#buffer = new Uint8Array(bytes)
  }

  /** Bytes from the position to the end of the file. */
  get left(): number {
    return this.#file.length - this.position
  }

  /** The next `bytes` bytes, fewer at the end of the file. They stay where they are until the next call. */
  async peek(bytes: number): Promise<Uint8Array> {
    const wanted = Math.max(0, Math.min(bytes, this.left))
    let at = this.position - this.#start
    if (at > this.#filled || at < 0) {
      this.#start = this.position
      this.#filled = 0
      at = 0
    }
    if (at + wanted > this.#filled) {
      this.#buffer.copyWithin(0, at, this.#filled)
      this.#filled -= at
      this.#start = this.position
      at = 0
      const more = Math.min(this.#buffer.length, this.left) - this.#filled
      await this.#file.read(this.#start + this.#filled, more, this.#buffer, this.#filled, 0)
      this.#filled += more
    }
    return this.#buffer.subarray(at, at + wanted)
  }

  /** Exactly `bytes` bytes. @throws BlockError EIO if there are fewer */
  async need(bytes: number): Promise<Uint8Array> {
    const data = await this.peek(bytes)
    if (data.length < bytes) {
      throw ioError('EIO', { node: this.#file.nodeName, operation: 'read', offset: this.position })
    }
    return data
  }
}
