import { ioError } from '../../../errors/index.js'
import type { HostSockets, SocketAddress, TlsSession } from '../../../host/index.js'
import {
  ClientConnection,
  type ClientNegotiation,
  connectExport,
  TransmissionFlags,
} from '../../../nbd/index.js'
import type { Clock } from '../../../sched/index.js'

/** How a session connects. Times are seconds. */
export interface SessionOptions {
  readonly sockets: HostSockets
  readonly clock: Clock
  readonly address: SocketAddress
  readonly exportName: string
  readonly context: string
  readonly tls: TlsSession | undefined
  readonly reconnectDelay: number
  readonly openTimeout: number
}

/** Pauses between attempts to connect: one second at first, then twice as long each time. */
const firstPause = 1
const longestPause = 16

/**
 * A connection to an export that comes back when it is lost. Requests that were under way then are made
 * again: the protocol's requests may all be repeated.
 */
export class NbdSession {
  readonly #options: SessionOptions
  #connection: ClientConnection
  /** An attempt to connect again, which never rejects. */
  #reconnecting: Promise<void> | undefined = undefined
  /** Requests made before this time (nanoseconds) wait for the attempt. */
  #patientUntil = 0
  #closed = false

  private constructor(options: SessionOptions, connection: ClientConnection) {
    this.#options = options
    this.#connection = connection
  }

  /** @throws BlockError why there is no connection, after `openTimeout` */
  static async open(options: SessionOptions): Promise<NbdSession> {
    const until = options.clock.now() + options.openTimeout * 1e9
    let pause = firstPause
    for (;;) {
      try {
        return new NbdSession(options, await connect(options))
      } catch (error) {
        const left = until - options.clock.now()
        if (left <= 0) {
          throw error
        }
        await sleep(options.clock, Math.min(pause * 1e9, left))
        pause = Math.min(pause * 2, longestPause)
      }
    }
  }

  get negotiation(): ClientNegotiation {
    return this.#connection.negotiation
  }

  /** Carries out a request, again if the connection was lost meanwhile and came back in time. */
  async run(request: (connection: ClientConnection) => Promise<void>): Promise<void> {
    for (;;) {
      const connection = this.#connection
      if (connection.lost === undefined) {
        try {
          await request(connection)
          return
        } catch (error) {
          if (connection.lost === undefined || this.#closed || this.#options.reconnectDelay === 0) {
            throw error
          }
        }
      }
      if (this.#closed) {
        throw ioError('EIO')
      }
      if (connection === this.#connection) {
        await this.#reconnect()
      }
    }
  }

  /** Waits until there is a connection again. @throws BlockError EIO if that takes too long */
  async #reconnect(): Promise<void> {
    const { clock, reconnectDelay } = this.#options
    if (this.#reconnecting === undefined) {
      this.#patientUntil = clock.now() + reconnectDelay * 1e9
      this.#reconnecting = this.#connectAgain().finally(() => {
        this.#reconnecting = undefined
      })
    }
    const left = this.#patientUntil - clock.now()
    if (left <= 0) {
      throw ioError('EIO')
    }
    let cancel: (() => void) | undefined
    const late = new Promise<boolean>((resolve) => {
      cancel = clock.after(left, () => resolve(true))
    })
    const isLate = await Promise.race([late, this.#reconnecting.then(() => false)])
    cancel?.()
    if (isLate || this.#closed) {
      throw ioError('EIO')
    }
  }

  /** Tries until it works or somebody closes the session; after the patient time only now and then. */
  async #connectAgain(): Promise<void> {
    let pause = firstPause
    while (!this.#closed) {
      try {
        const connection = await connect(this.#options)
        if (this.#closed) {
          await connection.close()
        } else if (sameExport(connection.negotiation, this.negotiation)) {
          this.#connection = connection
        } else {
          await connection.close()
          throw ioError('EIO')
        }
        return
      } catch {
        if (this.#options.clock.now() >= this.#patientUntil) {
          // The next request starts another attempt.
          return
        }
        await sleep(
          this.#options.clock,
          Math.min(pause * 1e9, this.#patientUntil - this.#options.clock.now()),
        )
        pause = Math.min(pause * 2, longestPause)
      }
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#connection.close()
  }
}

async function connect(options: SessionOptions): Promise<ClientConnection> {
  const socket = await options.sockets.connect(options.address)
  const { exportName: name, context, tls } = options
  return new ClientConnection(await connectExport(socket, { name, context, tls }))
}

/** Whether what the node has told about itself still holds. */
function sameExport(a: ClientNegotiation, b: ClientNegotiation): boolean {
  const ignored = TransmissionFlags.canMultiConn
  return (
    // Longer requests than others hold may be under way.
    (a.headers === 'extended') === (b.headers === 'extended') &&
    a.info.size === b.info.size &&
    (a.info.flags | ignored) === (b.info.flags | ignored) &&
    (a.contextId === undefined) === (b.contextId === undefined)
  )
}

function sleep(clock: Clock, nanoseconds: number): Promise<void> {
  return new Promise((resolve) => {
    clock.after(Math.max(nanoseconds, 0), resolve)
  })
}
