import { blockError, prefixed } from '../errors/index.js'
import type { HostSocket } from '../host/index.js'
import type { ByteBuilder } from './byte-builder.js'

const empty = new Uint8Array(0)

/**
 * Reads exact numbers of bytes from a socket, one caller at a time: for handshakes, which are easier to
 * follow as a sequence. It never takes more than it is asked for.
 */
export class SocketReader {
  readonly socket: HostSocket
  #wake: (() => void) | undefined = undefined
  #stopped: unknown = undefined

  constructor(socket: HostSocket) {
    this.socket = socket
    socket.onReadable = () => {
      const wake = this.#wake
      this.#wake = undefined
      wake?.()
    }
  }

  /** Makes a read in progress and all later ones fail with `reason`. */
  stop(reason: unknown): void {
    this.#stopped = reason
    this.socket.onReadable?.()
  }

  /** @throws BlockError EIO if the stream ends before */
  async exact(bytes: number): Promise<Uint8Array> {
    if (bytes === 0) {
      return empty
    }
    const buffer = new Uint8Array(bytes)
    await this.fill(buffer, 0, bytes)
    return buffer
  }

  /** As {@link exact}; a failure says what was to be read. */
  async named(bytes: number, what: string): Promise<Uint8Array> {
    try {
      return await this.exact(bytes)
    } catch (error) {
      throw prefixed(error, `Failed to read ${what}: `)
    }
  }

  /** As {@link exact}, into `buffer`. */
  async fill(buffer: Uint8Array, offset: number, bytes: number): Promise<void> {
    for (let done = 0; done < bytes; ) {
      if (this.#stopped !== undefined) {
        throw this.#stopped
      }
      const got = this.socket.read(buffer, offset + done, bytes - done)
      if (got === undefined) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      } else if (got === 0) {
        throw blockError('EIO', 'Unexpected end-of-file before all bytes were read')
      } else {
        done += got
      }
    }
  }

  /** Reads and forgets. */
  async skip(bytes: number): Promise<void> {
    const piece = new Uint8Array(Math.min(bytes, 65536))
    for (let left = bytes; left > 0; left -= piece.length) {
      await this.fill(piece, 0, Math.min(left, piece.length))
    }
  }

  /** Sends a message. */
  async send(message: ByteBuilder): Promise<void> {
    const bytes = message.take()
    if (bytes.length > 0) {
      await this.socket.write(bytes, 0, bytes.length)
    }
  }
}
