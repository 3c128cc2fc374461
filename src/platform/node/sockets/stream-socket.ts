import type { Duplex } from 'node:stream'
import { type BlockError, ioError } from '../../../errors/index.js'
import type { HostSocket, TlsSession } from '../../../host/index.js'
import type { Wait } from '../../../sched/index.js'
import { fromNode } from '../errors.js'
import { startTls } from './tls.js'

/** What a stream failed with, as a BlockError. */
export function streamError(error: unknown): BlockError {
  const { code } = error as { code?: unknown }
  if (code === 'ERR_STREAM_DESTROYED' || code === 'ERR_STREAM_WRITE_AFTER_END') {
    return ioError('EPIPE')
  }
  try {
    return fromNode(error)
  } catch {
    // TLS has errors of its own.
    return ioError('EIO')
  }
}

/** A socket through Node's streams, which read a small chunk ahead: TLS, and where system calls are out of reach. */
export class StreamSocket implements HostSocket {
  onReadable: (() => void) | undefined = undefined
  engaged = false
  paused = false
  readonly #stream: Duplex
  #chunk: Uint8Array | undefined = undefined
  #used = 0
  #ended = false
  #error: BlockError | undefined = undefined

  constructor(stream: Duplex) {
    this.#stream = stream
    const readable = (): void => {
      if (!this.paused) {
        this.onReadable?.()
      }
    }
    stream.on('readable', readable)
    stream.on('end', () => {
      this.#ended = true
      readable()
    })
    stream.on('error', (error) => {
      this.#error ??= streamError(error)
      readable()
    })
    stream.on('close', () => {
      this.#ended = true
      readable()
    })
  }

  read(buffer: Uint8Array, offset: number, bytes: number): number | undefined {
    let done = 0
    while (done < bytes) {
      const chunk = this.#chunk ?? (this.#stream.read() as Uint8Array | null)
      if (chunk === null) {
        break
      }
      const count = Math.min(bytes - done, chunk.length - this.#used)
      buffer.set(chunk.subarray(this.#used, this.#used + count), offset + done)
      done += count
      this.#used += count
      this.#chunk = chunk
      if (this.#used === chunk.length) {
        this.#chunk = undefined
        this.#used = 0
      }
    }
    if (done > 0) {
      return done
    }
    if (this.#error !== undefined) {
      throw this.#error
    }
    return this.#ended ? 0 : undefined
  }

  write(buffer: Uint8Array, offset: number, bytes: number): Wait {
    if (this.#error !== undefined) {
      throw this.#error
    }
    return new Promise((resolve, reject) => {
      this.#stream.write(buffer.subarray(offset, offset + bytes), (error) => {
        if (error === null || error === undefined) {
          resolve()
        } else {
          reject(streamError(error))
        }
      })
    })
  }

  async startTls(session: TlsSession): Promise<HostSocket> {
    if (this.#chunk !== undefined) {
      // Something unprotected is on its way where only TLS may be.
      this.destroy()
      throw ioError('EIO')
    }
    this.#stream.removeAllListeners()
    return new StreamSocket(await startTls(this.#stream, session))
  }

  end(): void {
    this.#stream.end()
  }

  destroy(): void {
    this.#stream.destroy()
  }
}
