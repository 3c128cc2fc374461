import { blockError, isBlockError, prefixed } from '../errors/index.js'
import type { HostListener, HostSocket, HostSockets, SocketAddress, TlsSession } from '../host/index.js'
import { IoBufferPool, type ServedExport, ServerHandshake, ServerTransmission } from '../nbd/index.js'
import { type Clock, monotonicClock } from '../sched/index.js'

export interface NbdServerOptions {
  readonly sockets: HostSockets
  readonly clock?: Clock | undefined
  /** Clients have to set it up before anything else. */
  readonly tls?: TlsSession | undefined
  /** Clients at the same time; others wait for their turn. 0: any number. Default 100. */
  readonly maxConnections?: number | undefined
  /** Seconds that a client may take to choose an export; 0: any time. Default 10. */
  readonly handshakeSeconds?: number | undefined
  /** Hears why a client was disconnected. */
  readonly report?: ((text: string) => void) | undefined
  /** A client is gone; `negotiated`: it had chosen an export. */
  readonly onClientClosed?: ((negotiated: boolean) => void) | undefined
}

/** Clients that are let wait for their turn. */
const maxWaiting = 128

/** A client that is being served. */
interface Client {
  stop(reason: unknown): void
  readonly done: Promise<void>
  served: ServedExport | undefined
}

/**
 * Serves exports to NBD clients. Exports may come and go while it runs; they belong to whoever adds
 * them, who closes them after {@link remove} or {@link close}.
 */
export class NbdServer {
  readonly #options: NbdServerOptions
  readonly #exports = new Map<string, ServedExport>()
  readonly #clients = new Set<Client>()
  readonly #waiting: HostSocket[] = []
  readonly #listeners: HostListener[] = []
  readonly #pool = new IoBufferPool()
  /** Connections are accepted, but not served yet; see {@link start}. */
  #started = false
  #closed = false

  constructor(options: NbdServerOptions) {
    this.#options = options
  }

  /** Clients that are served at the moment. */
  get connections(): number {
    return this.#clients.size
  }

  /**
   * Accepts connections at `address`, several times if wanted. Clients wait until {@link start}.
   * @returns the address, with the port that was chosen
   * @throws BlockError with QEMU's text
   */
  async listen(address: SocketAddress, backlog?: number): Promise<SocketAddress> {
    const listener = await this.#options.sockets.listen(address, { backlog }, (socket) => {
      this.#accepted(socket)
    })
    this.#listeners.push(listener)
    return listener.address
  }

  /** From now on clients are served. */
  start(): void {
    this.#started = true
    this.#admit()
  }

  /** @throws BlockError if there is an export of the same name */
  add(served: ServedExport): void {
    if (this.#exports.has(served.name)) {
      throw blockError('EINVAL', `NBD server already has export named '${served.name}'`)
    }
    this.#exports.set(served.name, served)
  }

  find(name: string): ServedExport | undefined {
    return this.#exports.get(name)
  }

  /** Whether a client uses the export. */
  isInUse(served: ServedExport): boolean {
    return [...this.#clients].some((client) => client.served === served)
  }

  /**
   * Takes an export out. Its requests are done when the promise resolves.
   * @param hard disconnect clients that use it
   * @throws BlockError EBUSY if clients use it and `hard` is not set
   */
  async remove(name: string, hard = false): Promise<void> {
    const served = this.#exports.get(name)
    if (served === undefined) {
      throw blockError('ENOENT', `Export '${name}' is not found`)
    }
    const users = [...this.#clients].filter((client) => client.served === served)
    if (users.length > 0 && !hard) {
      throw blockError('EBUSY', `export '${name}' still in use`, {
        hint: "Use mode='hard' to force client disconnect",
      })
    }
    this.#exports.delete(name)
    await this.#disconnect(users)
  }

  async #disconnect(clients: readonly Client[]): Promise<void> {
    for (const client of clients) {
      client.stop(blockError('ESHUTDOWN', 'Server is shutting down'))
    }
    await Promise.all(clients.map((client) => client.done))
  }

  /** Stops listening and disconnects everybody; idempotent. Requests in flight are done when the promise resolves. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all(this.#listeners.splice(0).map((listener) => listener.close()))
    for (const socket of this.#waiting.splice(0)) {
      socket.destroy()
    }
    await this.#disconnect([...this.#clients])
  }

  #accepted(socket: HostSocket): void {
    if (this.#closed || this.#waiting.length >= maxWaiting) {
      socket.destroy()
      return
    }
    this.#waiting.push(socket)
    this.#admit()
  }

  #admit(): void {
    const maximum = this.#options.maxConnections ?? 100
    while (this.#started && !this.#closed && (maximum === 0 || this.#clients.size < maximum)) {
      const socket = this.#waiting.shift()
      if (socket === undefined) {
        return
      }
      this.#serve(socket)
    }
  }

  #serve(socket: HostSocket): void {
    const connection = new Connection(socket, {
      tls: this.#options.tls,
      handshakeSeconds: this.#options.handshakeSeconds ?? 10,
      clock: this.#options.clock ?? monotonicClock,
      pool: this.#pool,
      exports: { find: (name) => this.#exports.get(name), list: () => this.#exports.values() },
    })
    const client: Client = {
      served: undefined,
      stop: (reason) => connection.stop(reason),
      done: connection
        .run((served) => {
          client.served = served
        })
        .catch((error: unknown) => {
          if (!isBlockError(error)) {
            throw error
          }
          this.#options.report?.(error.message)
        })
        .finally(() => {
          this.#clients.delete(client)
          this.#options.onClientClosed?.(client.served !== undefined)
          this.#admit()
        }),
    }
    this.#clients.add(client)
  }
}

interface ConnectionOptions {
  readonly tls: TlsSession | undefined
  readonly handshakeSeconds: number
  readonly clock: Clock
  readonly pool: IoBufferPool
  readonly exports: { find(name: string): ServedExport | undefined; list(): Iterable<ServedExport> }
}

/** One client from the first byte to the last. */
class Connection {
  readonly #options: ConnectionOptions
  readonly #handshake: ServerHandshake
  #transmission: ServerTransmission | undefined = undefined
  /** It was told to end: what happens then is no news. */
  #stopped = false

  constructor(socket: HostSocket, options: ConnectionOptions) {
    this.#options = options
    this.#handshake = new ServerHandshake(socket, options.exports, options.tls)
  }

  stop(reason: unknown): void {
    this.#stopped = true
    if (this.#transmission === undefined) {
      this.#handshake.stop(reason)
      this.#handshake.socket.destroy()
    } else {
      this.#transmission.stop()
    }
  }

  /** @throws BlockError why the client was disconnected, unless it was told to be */
  async run(chosen: (served: ServedExport) => void): Promise<void> {
    try {
      await this.#run(chosen)
    } catch (error) {
      if (!this.#stopped || !isBlockError(error)) {
        throw error
      }
    } finally {
      // What was written has been taken by the kernel, or never will be.
      this.#handshake.socket.destroy()
    }
  }

  async #run(chosen: (served: ServedExport) => void): Promise<void> {
    const { handshakeSeconds, clock, pool } = this.#options
    const cancel =
      handshakeSeconds > 0
        ? clock.after(handshakeSeconds * 1e9, () => {
            this.stop(blockError('ETIMEDOUT', 'client took too long to negotiate'))
          })
        : undefined
    let negotiation: Awaited<ReturnType<ServerHandshake['run']>>
    try {
      negotiation = await this.#handshake.run()
    } catch (error) {
      throw prefixed(error, 'option negotiation failed: ')
    } finally {
      cancel?.()
    }
    if (negotiation === undefined) {
      return
    }
    chosen(negotiation.export)
    this.#transmission = new ServerTransmission(negotiation, pool)
    try {
      await this.#transmission.run()
    } catch (error) {
      throw prefixed(error, 'Disconnect client, due to: ')
    }
  }
}
