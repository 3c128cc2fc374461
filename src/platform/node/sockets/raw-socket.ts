import type { Socket } from 'node:net'
import { type BlockError, ioError } from '../../../errors/index.js'
import type { HostSocket, TlsSession } from '../../../host/index.js'
import type { Wait } from '../../../sched/index.js'
import { Errno, fromErrno } from '../errors.js'
import type { Libc } from '../libc.js'
import { addressOf } from '../memory.js'
import type { HotLoop } from './hot-loop.js'
import { StreamSocket, streamError } from './stream-socket.js'
import { startTls } from './tls.js'

/** What Node keeps behind a socket; there is no public way to stop its reading at once, or to its descriptor. */
export interface StreamHandle {
  readonly fd: number
  reading?: boolean
  readStart(): number
  readStop(): number
}

/** The handle of a socket, where it looks as expected. */
export function handleOf(socket: Socket): StreamHandle | undefined {
  const { _handle: handle } = socket as { _handle?: Partial<StreamHandle> | null }
  if (
    handle === undefined ||
    handle === null ||
    typeof handle.fd !== 'number' ||
    handle.fd < 0 ||
    typeof handle.readStart !== 'function' ||
    typeof handle.readStop !== 'function'
  ) {
    return undefined
  }
  return handle as StreamHandle
}

/** One iovec of a 64-bit system: address and length as 32-bit halves. */
const iovec = new Uint8Array(16)
const iovecWords = new Uint32Array(iovec.buffer)

/** Milliseconds that a full send buffer is waited for before the event loop takes over; see HotLoop. */
const sendPatience = 1

/**
 * A socket whose bytes are moved by system calls of our own. As long as something arrives it is *hot*:
 * the loop of hot sockets polls it, and Node's streams, which cost several times as much, do not see a
 * byte. When nothing has come for a while libuv watches it, and what arrives first comes through the
 * stream.
 */
export class RawSocket implements HostSocket {
  onReadable: (() => void) | undefined = undefined
  engaged = false
  readonly fd: number
  readonly #socket: Socket
  readonly #handle: StreamHandle
  readonly #libc: Libc
  readonly #loop: HotLoop
  #hot = false
  /** What libuv had read before it was told to stop. */
  readonly #chunks: Uint8Array[] = []
  #used = 0
  #ended = false
  #error: BlockError | undefined = undefined
  /** Sends that libuv has to finish, in order; nothing may overtake them. */
  #queued = 0
  #destroyed = false
  #paused = false

  constructor(socket: Socket, handle: StreamHandle, libc: Libc, loop: HotLoop) {
    this.#socket = socket
    this.#handle = handle
    this.#libc = libc
    this.#loop = loop
    this.fd = handle.fd
    socket.on('data', (chunk: Uint8Array) => {
      this.#chunks.push(chunk)
      this.#becomeHot()
      this.ready()
    })
    socket.on('end', () => {
      this.#ended = true
      this.ready()
    })
    socket.on('error', (error) => {
      this.#error ??= streamError(error)
      this.ready()
    })
    socket.on('close', () => {
      this.#ended = true
      this.#leaveLoop()
      this.ready()
    })
  }

  get paused(): boolean {
    return this.#paused
  }

  set paused(paused: boolean) {
    if (paused === this.#paused || this.#destroyed) {
      return
    }
    this.#paused = paused
    if (paused) {
      this.#leaveLoop()
      this.#handle.readStop()
    } else if (!this.#ended) {
      this.#becomeHot()
    }
  }

  #becomeHot(): void {
    if (!this.#hot && !this.#destroyed && !this.#paused) {
      this.#hot = true
      this.#handle.readStop()
      this.#loop.add(this)
    }
  }

  #leaveLoop(): void {
    if (this.#hot) {
      this.#hot = false
      this.#loop.remove(this)
    }
  }

  /** @internal Nothing has arrived for a while: libuv watches from now on. */
  cool(): void {
    this.#leaveLoop()
    if (!this.#destroyed && !this.#ended) {
      this.#handle.readStart()
    }
  }

  /** @internal Something has arrived. */
  ready(): void {
    if (!this.#paused) {
      this.onReadable?.()
    }
  }

  read(buffer: Uint8Array, offset: number, bytes: number): number | undefined {
    const [chunk] = this.#chunks
    if (chunk !== undefined) {
      const count = Math.min(bytes, chunk.length - this.#used)
      buffer.set(chunk.subarray(this.#used, this.#used + count), offset)
      this.#used += count
      if (this.#used === chunk.length) {
        this.#chunks.shift()
        this.#used = 0
      }
      return count
    }
    if (this.#error !== undefined) {
      throw this.#error
    }
    if (this.#ended || this.#destroyed) {
      return 0
    }
    if (!this.#hot) {
      return undefined
    }
    this.#fillIovec(buffer, offset, bytes)
    const got = this.#libc.readv(this.fd, iovec, 1)
    if (got > 0) {
      return got
    }
    if (got === 0) {
      this.#ended = true
      this.#leaveLoop()
      return 0
    }
    if (got === -Errno.EAGAIN || got === -Errno.EINTR) {
      return undefined
    }
    this.#error = fromErrno(-got)
    this.#leaveLoop()
    throw this.#error
  }

  #fillIovec(buffer: Uint8Array, offset: number, bytes: number): void {
    if (!(offset >= 0 && bytes > 0 && offset + bytes <= buffer.length)) {
      throw new RangeError(`range ${offset}, +${bytes} is outside ${buffer.length} bytes`)
    }
    const address = addressOf(this.#libc, buffer) + offset
    iovecWords[0] = address >>> 0
    iovecWords[1] = address / 0x1_0000_0000
    iovecWords[2] = bytes
    iovecWords[3] = 0
  }

  write(buffer: Uint8Array, offset: number, bytes: number): Wait {
    if (this.#error !== undefined) {
      throw this.#error
    }
    if (this.#destroyed) {
      throw ioError('EPIPE')
    }
    let done = 0
    let patience = sendPatience
    while (this.#queued === 0 && done < bytes) {
      this.#fillIovec(buffer, offset + done, bytes - done)
      const put = this.#libc.writev(this.fd, iovec, 1)
      if (put >= 0) {
        done += put
      } else if (put === -Errno.EAGAIN) {
        if (patience === 0 || !this.#loop.waitWritable(this.fd)) {
          break
        }
        patience--
      } else if (put !== -Errno.EINTR) {
        this.#error = put === -32 ? ioError('EPIPE') : fromErrno(-put)
        throw this.#error
      }
      if (put > 0) {
        patience = sendPatience
      }
    }
    return done === bytes ? undefined : this.#writeRest(buffer, offset + done, bytes - done)
  }

  /** The kernel's buffer is full: libuv waits for room. */
  #writeRest(buffer: Uint8Array, offset: number, bytes: number): Promise<void> {
    this.#queued++
    return new Promise((resolve, reject) => {
      this.#socket.write(buffer.subarray(offset, offset + bytes), (error) => {
        this.#queued--
        if (error === null || error === undefined) {
          resolve()
        } else {
          reject(streamError(error))
        }
      })
    })
  }

  async startTls(session: TlsSession): Promise<HostSocket> {
    if (this.#chunks.length > 0) {
      // Something unprotected is on its way where only TLS may be.
      this.destroy()
      throw ioError('EIO')
    }
    this.#leaveLoop()
    this.#handle.readStop()
    // Node keeps account of that itself, and would not start again.
    this.#handle.reading = false
    this.#destroyed = true
    this.onReadable = undefined
    for (const event of ['data', 'end', 'error', 'close'] as const) {
      this.#socket.removeAllListeners(event)
    }
    return new StreamSocket(await startTls(this.#socket, session))
  }

  end(): void {
    this.#socket.end()
  }

  destroy(): void {
    if (!this.#destroyed) {
      this.#destroyed = true
      this.#leaveLoop()
      this.#socket.destroy()
    }
  }
}
