import { blockError, isBlockError } from '../errors/index.js'
import { EventLimiter } from './event-limiter.js'
import type { CommandHandlers } from './handlers.js'
import type { WireValue } from './json-number.js'
import type { QmpRequest } from './request.js'
import { entityDef } from './schema/index.js'
import type { EventName } from './schema/types.js'
import { QmpSession, type QmpTransport } from './session.js'
import { InputChecker } from './validate.js'

/** What the greeting and `query-version` tell. */
export interface MonitorVersion {
  readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number }
  readonly package: string
}

export interface MonitorOptions {
  readonly version: MonitorVersion
  readonly handlers: CommandHandlers
  /** Milliseconds since 1970; default: the system's clock. */
  readonly wallClock?: () => number
  /** A command failed in a way that is a mistake of this program; default: it is thrown. */
  readonly onInternalError?: (error: unknown) => void
}

type AnyHandler = (args: unknown) => unknown

/**
 * Executes commands, one at a time over all its sessions, each session's in their order, and tells the
 * sessions of events.
 */
export class QmpMonitor {
  readonly version: MonitorVersion
  readonly #handlers: CommandHandlers
  readonly #sessions = new Set<QmpSession>()
  readonly #checker = new InputChecker()
  readonly #wallClock: () => number
  readonly #onInternalError: (error: unknown) => void
  readonly #limiter = new EventLimiter()
  /** Sessions with something to execute, in the order of their turns. */
  readonly #ready: QmpSession[] = []
  #running = false

  constructor(options: MonitorOptions) {
    this.version = options.version
    this.#handlers = options.handlers
    this.#wallClock = options.wallClock ?? Date.now
    this.#onInternalError =
      options.onInternalError ??
      ((error) => {
        queueMicrotask(() => {
          throw error
        })
      })
  }

  /** Names of the commands that can be executed, in no particular order. */
  get commands(): string[] {
    return Object.keys(this.#handlers)
  }

  /** A client has connected. It is greeted at once. */
  connect(transport: QmpTransport, options: { readonly pretty?: boolean } = {}): QmpSession {
    const session = new QmpSession(this, transport, options.pretty ?? false)
    this.#sessions.add(session)
    session.greet()
    return session
  }

  /** @internal The client has gone. */
  forget(session: QmpSession): void {
    this.#sessions.delete(session)
    const at = this.#ready.indexOf(session)
    if (at >= 0) {
      this.#ready.splice(at, 1)
    }
  }

  /** Sends an event to every client that has finished negotiating. */
  emit(event: EventName, data: object): void {
    this.#limiter.pass(event, data, (late) => this.#broadcast(event, late))
  }

  #broadcast(event: string, data: object): void {
    const now = this.#wallClock()
    const timestamp = { seconds: Math.floor(now / 1000), microseconds: Math.floor((now % 1000) * 1000) }
    const message = { timestamp, event, ...(Object.keys(data).length === 0 ? {} : { data }) }
    for (const session of this.#sessions) {
      session.notify(message)
    }
  }

  /** No more events come late. */
  close(): void {
    this.#limiter.close()
  }

  /** @internal The session has something to execute: its turn will come. */
  schedule(session: QmpSession): void {
    if (!this.#ready.includes(session)) {
      this.#ready.push(session)
    }
    if (!this.#running) {
      this.#running = true
      void this.#run()
    }
  }

  async #run(): Promise<void> {
    try {
      for (let next = this.#ready.shift(); next !== undefined; next = this.#ready.shift()) {
        if (await next.executeNext()) {
          this.#ready.push(next)
        }
      }
    } finally {
      this.#running = false
    }
  }

  /**
   * Executes a command for a client that has negotiated.
   *
   * @returns what the reply's `return` is
   * @throws BlockError
   */
  async execute(request: QmpRequest): Promise<unknown> {
    const { command } = request
    const def = entityDef(command)
    const handler = Object.hasOwn(this.#handlers, command)
      ? (this.#handlers as Readonly<Record<string, AnyHandler>>)[command]
      : undefined
    if (request.oob && def !== undefined && def.oob !== true) {
      throw blockError('EINVAL', `The command ${command} does not support OOB`)
    }
    if (def === undefined || handler === undefined) {
      throw blockError('ENOENT', `The command ${command} has not been found`, {
        errorClass: 'CommandNotFound',
      })
    }
    const args = this.#checker.arguments(def, request.arguments)
    try {
      return (await handler(args)) ?? {}
    } catch (error) {
      if (isBlockError(error)) {
        throw error
      }
      // A client must not be able to end the program by what it asks for.
      this.#onInternalError(error)
      throw blockError('EIO', `internal error: ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  /** @internal The capabilities that a client asks for. @throws BlockError */
  capabilities(args: { [key: string]: WireValue }): readonly string[] {
    const def = entityDef('qmp_capabilities')
    const { enable } = this.#checker.arguments(def ?? {}, args)
    return (enable as readonly string[] | undefined) ?? []
  }
}
