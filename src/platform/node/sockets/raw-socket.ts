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

const POLLIN = 1
const POLLOUT = 4

/** MSG_DONTWAIT | MSG_NOSIGNAL */
const messageFlags = 0x4040
/** Most bytes handed to the kernel in one call. */
const callBytes = 1 << 30

/** Bytes that wait for room in the kernel's buffer. */
interface Outgoing {
  readonly buffer: Uint8Array
  offset: number
  bytes: number
  resolve(): void
  reject(error: unknown): void
}

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
  /** What the hot loop sends when there is room. */
  readonly #outgoing: Outgoing[] = []
  /** Sends that libuv has to finish, in order; nothing may overtake them. */
  #queued = 0
  #inLoop = false
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
      this.#hot = false
      for (const { reject } of this.#outgoing.splice(0)) {
        reject(ioError('EPIPE'))
      }
      this.#updateLoop()
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
      this.#notHot()
      this.#handle.readStop()
    } else if (!this.#ended) {
      this.#becomeHot()
    }
  }

  #becomeHot(): void {
    if (!this.#hot && !this.#destroyed && !this.#paused) {
      this.#hot = true
      this.#handle.readStop()
      this.#updateLoop()
    }
  }

  /** @internal What the loop looks for. */
  get events(): number {
    return (this.#hot ? POLLIN : 0) | (this.#outgoing.length > 0 ? POLLOUT : 0)
  }

  /** The loop has this socket as long as there is something to look for. */
  #updateLoop(): void {
    const wanted = this.events !== 0 && !this.#destroyed
    if (wanted !== this.#inLoop) {
      this.#inLoop = wanted
      if (wanted) {
        this.#loop.add(this)
      } else {
        this.#loop.remove(this)
      }
    } else if (wanted) {
      this.#loop.changed()
    }
  }

  /** Nothing is to be received by system calls any more. */
  #notHot(): void {
    if (this.#hot) {
      this.#hot = false
      this.#updateLoop()
    }
  }

  /** @internal Nothing has happened for a while: libuv watches from now on. */
  cool(): void {
    const wasHot = this.#hot
    this.#hot = false
    for (const { buffer, offset, bytes, resolve, reject } of this.#outgoing.splice(0)) {
      this.#writeRest(buffer, offset, bytes).then(resolve, reject)
    }
    this.#updateLoop()
    if (wasHot && !this.#destroyed && !this.#ended) {
      this.#handle.readStart()
    }
  }

  /** @internal There is room to send. */
  writable(): void {
    for (let [first] = this.#outgoing; first !== undefined; [first] = this.#outgoing) {
      let put: number
      try {
        put = this.#send(first.buffer, first.offset, first.bytes)
      } catch (error) {
        for (const { reject } of this.#outgoing.splice(0)) {
          reject(error)
        }
        break
      }
      first.offset += put
      first.bytes -= put
      if (first.bytes > 0) {
        return
      }
      this.#outgoing.shift()
      first.resolve()
    }
    this.#updateLoop()
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
    const address = this.#addressOf(buffer, offset, bytes)
    const got = this.#libc.recv(this.fd, address, Math.min(bytes, callBytes), messageFlags)
    if (got > 0) {
      return got
    }
    if (got === 0) {
      this.#ended = true
      this.#notHot()
      return 0
    }
    if (got === -Errno.EAGAIN || got === -Errno.EINTR) {
      return undefined
    }
    this.#error = fromErrno(-got)
    this.#notHot()
    throw this.#error
  }

  /** Address of `buffer[offset]`, for a transfer of `bytes`, which fit. */
  #addressOf(buffer: Uint8Array, offset: number, bytes: number): number {
    if (!(offset >= 0 && bytes > 0 && offset + bytes <= buffer.length)) {
      throw new RangeError(`range ${offset}, +${bytes} is outside ${buffer.length} bytes`)
    }
    return addressOf(this.#libc, buffer) + offset
  }

  write(buffer: Uint8Array, offset: number, bytes: number): Wait {
    if (this.#error !== undefined) {
      throw this.#error
    }
    if (this.#destroyed) {
      throw ioError('EPIPE')
    }
    if (this.#queued > 0) {
      return this.#writeRest(buffer, offset, bytes)
    }
    const done = this.#outgoing.length > 0 ? 0 : this.#send(buffer, offset, bytes)
    if (done === bytes) {
      return undefined
    }
    return new Promise((resolve, reject) => {
      this.#outgoing.push({ buffer, offset: offset + done, bytes: bytes - done, resolve, reject })
      this.#updateLoop()
    })
  }

  /** Sends as much as there is room for; returns how much. */
  #send(buffer: Uint8Array, offset: number, bytes: number): number {
    if (bytes === 0) {
      return 0
    }
    const address = this.#addressOf(buffer, offset, bytes)
    let done = 0
    while (done < bytes) {
      const length = Math.min(bytes - done, callBytes)
      const put = this.#libc.send(this.fd, address + done, length, messageFlags)
      if (put >= 0) {
        done += put
      } else if (put === -Errno.EAGAIN) {
        break
      } else if (put !== -Errno.EINTR) {
        this.#error = put === -Errno.EPIPE ? ioError('EPIPE') : fromErrno(-put)
        throw this.#error
      }
    }
    return done
  }

  /** libuv waits for room. */
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
    if (this.#outgoing.length > 0) {
      throw new Error('TLS may not start while something is being sent')
    }
    this.#notHot()
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
    for (const { buffer, offset, bytes, resolve, reject } of this.#outgoing.splice(0)) {
      this.#writeRest(buffer, offset, bytes).then(resolve, reject)
    }
    this.#updateLoop()
    this.#socket.end()
  }

  destroy(): void {
    if (!this.#destroyed) {
      this.#destroyed = true
      this.#hot = false
      for (const { reject } of this.#outgoing.splice(0)) {
        reject(ioError('EPIPE'))
      }
      this.#updateLoop()
      this.#socket.destroy()
    }
  }
}
