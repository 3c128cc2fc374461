import { isBlockError } from '../../errors/index.js'
import type { HostListener, HostSocket, HostSockets, SocketAddress } from '../../host/index.js'
import type { Wait } from '../../sched/index.js'
import type { CharDevice, CharFrontend } from './device.js'

export interface SocketCharOptions {
  readonly label: string
  readonly sockets: HostSockets
  readonly address: SocketAddress
  /** Listen; otherwise connect. */
  readonly server: boolean
  /** Seconds after which a client connects again when the connection has ended; 0: never. */
  readonly reconnect: number
}

/** Bytes that are read at a time. */
const readBytes = 4096
/** Reads before others have their turn. */
const turnReads = 16
/** Clients that wait for the one before them to leave. */
const maxWaiting = 16

/** A character device over a socket. A server has one client at a time; others wait for their turn. */
export class SocketChar implements CharDevice {
  readonly label: string
  frontend: CharFrontend | undefined = undefined
  backlog = 0
  readonly #options: SocketCharOptions
  readonly #buffer = new Uint8Array(readBytes)
  readonly #waiting: HostSocket[] = []
  #listener: HostListener | undefined = undefined
  #socket: HostSocket | undefined = undefined
  #reading = true
  #closed = false
  #opened: (() => void) | undefined = undefined
  #timer: ReturnType<typeof setTimeout> | undefined = undefined

  private constructor(options: SocketCharOptions) {
    this.label = options.label
    this.#options = options
  }

  /**
   * Listens or connects.
   *
   * @param waiting of a server that is ready when a client has connected: told when it begins to wait
   * @throws BlockError with QEMU's text
   */
  static async create(options: SocketCharOptions, waiting?: (where: string) => void): Promise<SocketChar> {
    const device = new SocketChar(options)
    if (options.server) {
      device.#listener = await options.sockets.listen(options.address, { backlog: 1 }, (socket) =>
        device.#accepted(socket),
      )
      if (waiting !== undefined && device.#socket === undefined) {
        waiting(device.filename)
        await new Promise<void>((resolve) => {
          device.#opened = resolve
        })
      }
    } else if (options.reconnect > 0) {
      await device.#reconnect()
    } else {
      device.#use(await options.sockets.connect(options.address))
    }
    return device
  }

  attach(frontend: CharFrontend): void {
    this.frontend = frontend
    const socket = this.#socket
    if (socket !== undefined) {
      frontend.opened()
      queueMicrotask(() => this.#pull(socket))
    }
  }

  get isOpen(): boolean {
    return this.#socket !== undefined
  }

  get filename(): string {
    const address = this.#listener?.address ?? this.#options.address
    const state = this.isOpen ? '' : 'disconnected:'
    const server = this.#options.server ? ',server=on' : ''
    switch (address.type) {
      case 'unix':
        return `${state}unix:${address.path}${server}`
      case 'inet':
        return `${state}tcp:${address.host}:${address.port}${server}`
      default:
        return `${state}fd:${address.fd}${server}`
    }
  }

  get reading(): boolean {
    return this.#reading
  }

  set reading(wanted: boolean) {
    if (this.#reading === wanted) {
      return
    }
    this.#reading = wanted
    const socket = this.#socket
    if (socket !== undefined) {
      socket.paused = !wanted
      if (wanted) {
        this.#pullLater(socket)
      }
    }
  }

  #accepted(socket: HostSocket): void {
    if (this.#closed || this.#waiting.length >= maxWaiting) {
      socket.destroy()
    } else if (this.#socket === undefined) {
      this.#use(socket)
    } else {
      this.#waiting.push(socket)
    }
  }

  #use(socket: HostSocket): void {
    this.#socket = socket
    this.backlog = 0
    this.#reading = true
    socket.onReadable = () => this.#pull(socket)
    this.frontend?.opened()
    this.#opened?.()
    this.#pull(socket)
  }

  /** Reads on when others have had their turn: a client that sends without end must not keep them from it. */
  #pullLater(socket: HostSocket): void {
    setTimeout(() => this.#pull(socket), 0)
  }

  #pull(socket: HostSocket): void {
    try {
      for (let turns = 0; this.#socket === socket && this.#reading && this.frontend !== undefined; turns++) {
        if (turns === turnReads) {
          this.#pullLater(socket)
          return
        }
        const bytes = socket.read(this.#buffer, 0, readBytes)
        if (bytes === undefined) {
          return
        }
        if (bytes === 0) {
          this.#ended(socket)
          return
        }
        this.frontend.data(this.#buffer, 0, bytes)
      }
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      this.#ended(socket)
    }
  }

  #ended(socket: HostSocket): void {
    socket.onReadable = undefined
    socket.destroy()
    if (this.#socket !== socket) {
      return
    }
    this.#socket = undefined
    this.frontend?.closed()
    const next = this.#waiting.shift()
    if (next !== undefined) {
      this.#use(next)
    } else if (!this.#options.server && this.#options.reconnect > 0 && !this.#closed) {
      this.#timer = setTimeout(() => void this.#reconnect(), this.#options.reconnect * 1000)
    }
  }

  async #reconnect(): Promise<void> {
    try {
      this.#use(await this.#options.sockets.connect(this.#options.address))
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      this.#timer = setTimeout(() => void this.#reconnect(), this.#options.reconnect * 1000)
    }
  }

  write(bytes: Uint8Array): Wait {
    const socket = this.#socket
    if (socket === undefined) {
      return undefined
    }
    let wait: Wait
    try {
      wait = socket.write(bytes, 0, bytes.length)
    } catch (error) {
      this.#failed(socket, error)
      return undefined
    }
    if (wait === undefined) {
      return undefined
    }
    this.backlog += bytes.length
    return wait.then(
      () => {
        if (this.#socket === socket) {
          this.backlog -= bytes.length
        }
      },
      (error: unknown) => this.#failed(socket, error),
    )
  }

  #failed(socket: HostSocket, error: unknown): void {
    if (!isBlockError(error)) {
      throw error
    }
    // Not now: the frontend is in the middle of something.
    queueMicrotask(() => this.#ended(socket))
  }

  drop(): void {
    const socket = this.#socket
    if (socket !== undefined) {
      queueMicrotask(() => this.#ended(socket))
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    for (const socket of this.#waiting.splice(0)) {
      socket.destroy()
    }
    await this.#listener?.close()
    const socket = this.#socket
    this.#socket = undefined
    if (socket !== undefined) {
      socket.onReadable = undefined
      socket.end()
    }
  }
}
