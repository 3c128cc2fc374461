import { statSync, unlinkSync } from 'node:fs'
import net from 'node:net'
import { ioError } from '../../../errors/index.js'
import type {
  ConnectOptions,
  HostListener,
  HostSocket,
  HostSockets,
  ListenOptions,
  SocketAddress,
} from '../../../host/index.js'
import type { IoPolicy } from '../file.js'
import { libc } from '../libc.js'
import { checkAddress, connectError, listenError } from './addresses.js'
import { HotLoop } from './hot-loop.js'
import { handleOf, RawSocket } from './raw-socket.js'
import { StreamSocket } from './stream-socket.js'

/** asm-generic/socket.h */
const SOL_SOCKET = 1
const SO_SNDBUF = 7
/**
 * What a Unix socket holds of what was sent and not taken, bytes. The kernel's default, 208 KiB, is less than one reply
 * of usual size, so that both sides would wait for each other in turn. TCP finds its own.
 */
const sendBuffer = new Uint8Array(Int32Array.of(1 << 20).buffer)

/** Sockets of this machine. */
export class NodeSockets implements HostSockets {
  readonly #policy: IoPolicy
  #loop: HotLoop | undefined = undefined

  constructor(policy: IoPolicy) {
    this.#policy = policy
  }

  #wrap(socket: net.Socket, isUnix: boolean): HostSocket {
    const c = this.#policy === 'threads' ? undefined : libc()
    const handle = c === undefined ? undefined : handleOf(socket)
    if (c === undefined || handle === undefined) {
      return new StreamSocket(socket)
    }
    if (isUnix) {
      // Where that is not allowed the kernel gives less, or nothing.
      c.setsockopt(handle.fd, SOL_SOCKET, SO_SNDBUF, sendBuffer)
    }
    this.#loop ??= new HotLoop(c, this.#policy === 'foreground' || this.#policy === 'sync')
    return new RawSocket(socket, handle, c, this.#loop)
  }

  async listen(
    address: SocketAddress,
    { backlog }: ListenOptions,
    accept: (socket: HostSocket) => void,
  ): Promise<HostListener> {
    checkAddress(address)
    if (address.type === 'unix') {
      removeOld(address.path)
    }
    const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
      accept(this.#wrap(socket, address.type === 'unix'))
    })
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => reject(listenError(error, address)))
      server.once('listening', () => {
        server.removeAllListeners('error')
        // Too many open files, say: who cannot be accepted now may come again.
        server.on('error', () => undefined)
        resolve()
      })
      const common = backlog === undefined ? {} : { backlog }
      if (address.type === 'unix') {
        server.listen({ path: address.path, ...common })
      } else if (address.type === 'inet') {
        server.listen({ host: address.host, port: address.port, ...common })
      } else {
        server.listen({ fd: address.fd, ...common })
      }
    })
    const bound = server.address()
    return {
      address:
        address.type === 'inet' && bound !== null && typeof bound === 'object'
          ? { ...address, port: bound.port }
          : address,
      close: () =>
        new Promise((resolve) => {
          server.close(() => resolve())
          // Connections go on; nobody waits for them here.
          resolve()
        }),
    }
  }

  connect(address: SocketAddress, { signal }: ConnectOptions = {}): Promise<HostSocket> {
    checkAddress(address)
    if (address.type === 'fd') {
      return Promise.resolve(this.#wrap(new net.Socket({ fd: address.fd, allowHalfOpen: true }), false))
    }
    return new Promise((resolve, reject) => {
      const socket = net.connect({
        ...(address.type === 'unix'
          ? { path: address.path }
          : { host: address.host, port: address.port, noDelay: true }),
        allowHalfOpen: true,
      })
      const stop = (): void => {
        socket.destroy()
        reject(ioError('ECANCELED'))
      }
      const failed = (error: unknown): void => {
        signal?.removeEventListener('abort', stop)
        reject(connectError(error, address))
      }
      socket.once('error', failed)
      socket.once('connect', () => {
        signal?.removeEventListener('abort', stop)
        socket.off('error', failed)
        resolve(this.#wrap(socket, address.type === 'unix'))
      })
      if (signal?.aborted === true) {
        stop()
      } else {
        signal?.addEventListener('abort', stop, { once: true })
      }
    })
  }
}

/** A socket that nobody may be listening on any more stands in the way of a new one, as with QEMU. */
function removeOld(path: string): void {
  try {
    if (statSync(path).isSocket()) {
      unlinkSync(path)
    }
  } catch {
    // Binding says what is wrong.
  }
}
