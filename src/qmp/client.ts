import { BlockError, blockError, type ErrorClass } from '../errors/index.js'
import type { HostSocket, HostSockets, SocketAddress } from '../host/index.js'
import { isWireObject, plainValue, type WireObject, type WireValue } from './json-number.js'
import { JsonStream } from './json-stream.js'
import { entities } from './schema/index.js'
import type { ArgumentsOf, CommandName, QmpEvent, ReturnOf } from './schema/types.js'
import { wireText } from './wire-text.js'

export interface ConnectQmpOptions {
  readonly sockets: HostSockets
  /** Ask for out-of-band execution, which {@link QmpClient.executeOutOfBand} needs. */
  readonly oob?: boolean
  readonly signal?: AbortSignal | undefined
}

/** Commands whose arguments may be left out. */
type Parameters<C extends CommandName> =
  Record<never, never> extends ArgumentsOf<C> ? [args?: ArgumentsOf<C>] : [args: ArgumentsOf<C>]

type CamelCase<S extends string> = S extends `${infer A}-${infer B}`
  ? `${A}${Capitalize<CamelCase<B>>}`
  : S extends `${infer A}_${infer B}`
    ? `${A}${Capitalize<CamelCase<B>>}`
    : S

/** A method for each command, in camel case: `blockdevAdd`, `queryBlock`, `blockResize`. */
export type QmpMethods = {
  readonly [C in CommandName as CamelCase<C>]: (...args: Parameters<C>) => Promise<ReturnOf<C>>
}

/** What a server says of itself in its greeting. */
export interface QmpGreeting {
  readonly version: {
    readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number }
    readonly package: string
  }
  readonly capabilities: readonly string[]
}

/** Events that nobody has taken yet; the oldest are dropped then. */
const maxEvents = 10_000
const readBytes = 16 * 1024

interface Pending {
  resolve(value: unknown): void
  reject(error: unknown): void
}

/** Events, one after the other, from the moment it was made. */
class EventQueue implements AsyncIterableIterator<QmpEvent> {
  readonly #events: QmpEvent[] = []
  readonly #onEnd: (queue: EventQueue) => void
  #wake: (() => void) | undefined = undefined
  #ended = false

  constructor(onEnd: (queue: EventQueue) => void) {
    this.#onEnd = onEnd
  }

  push(event: QmpEvent): void {
    if (this.#events.length >= maxEvents) {
      this.#events.shift()
    }
    this.#events.push(event)
    this.#wake?.()
  }

  end(): void {
    this.#ended = true
    this.#wake?.()
  }

  async next(): Promise<IteratorResult<QmpEvent, undefined>> {
    for (;;) {
      const event = this.#events.shift()
      if (event !== undefined) {
        return { done: false, value: event }
      }
      if (this.#ended) {
        return { done: true, value: undefined }
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  return(): Promise<IteratorResult<QmpEvent, undefined>> {
    this.#onEnd(this)
    this.end()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}

/**
 * A connection to a QMP monitor: this package's or QEMU's own. {@link QmpClient.commands} has a method for
 * every command of the storage daemon; {@link QmpClient.execute} also takes others.
 */
export class QmpClient implements AsyncDisposable {
  readonly greeting: QmpGreeting
  readonly commands: QmpMethods
  readonly #socket: HostSocket
  readonly #pending = new Map<number, Pending>()
  readonly #queues = new Set<EventQueue>()
  #lastId = 0
  #failure: BlockError | undefined = undefined

  private constructor(socket: HostSocket, greeting: QmpGreeting) {
    this.#socket = socket
    this.greeting = greeting
    const methods: Record<string, (args?: object) => Promise<unknown>> = {}
    for (const [method, command] of commandsByMethod) {
      methods[method] = (args) => this.execute(command, args)
    }
    this.commands = methods as unknown as QmpMethods
  }

  /**
   * Connects and negotiates.
   *
   * @throws BlockError if nobody answers, or not with a greeting
   */
  static async connect(address: SocketAddress, options: ConnectQmpOptions): Promise<QmpClient> {
    const { sockets, oob = false, signal } = options
    const socket = await sockets.connect(address, { signal })
    let client: QmpClient | undefined
    try {
      client = await new Promise<QmpClient>((resolve, reject) => {
        const early: { client: QmpClient | undefined } = { client: undefined }
        const stream = new JsonStream({
          message: (value) => {
            if (early.client !== undefined) {
              early.client.#message(value)
              return
            }
            const greeting = isWireObject(value) ? value.QMP : undefined
            if (!isWireObject(greeting)) {
              reject(blockError('EINVAL', 'The server does not speak QMP'))
              return
            }
            early.client = new QmpClient(socket, plainValue(greeting) as unknown as QmpGreeting)
            resolve(early.client)
          },
          error: (error) => {
            reject(error)
            if (early.client !== undefined) {
              early.client.#fail(error)
            }
          },
        })
        const buffer = new Uint8Array(readBytes)
        const pull = (): void => {
          try {
            for (;;) {
              const bytes = socket.read(buffer, 0, readBytes)
              if (bytes === undefined) {
                return
              }
              if (bytes === 0) {
                throw blockError('ECONNRESET', 'The QMP connection has ended')
              }
              stream.feed(buffer, 0, bytes)
            }
          } catch (error) {
            socket.onReadable = undefined
            reject(error)
            if (early.client !== undefined) {
              early.client.#fail(error)
            }
          }
        }
        socket.onReadable = pull
        signal?.addEventListener('abort', () => reject(blockError('ECANCELED', 'Operation canceled')), {
          once: true,
        })
        pull()
      })
      await client.execute('qmp_capabilities', oob ? { enable: ['oob'] } : {})
      return client
    } catch (error) {
      socket.destroy()
      throw error
    }
  }

  /**
   * Executes a command.
   *
   * @returns what the server returned
   * @throws BlockError with the server's message and class
   */
  execute<C extends CommandName>(command: C, ...args: Parameters<C>): Promise<ReturnOf<C>>
  execute(command: string, args?: object): Promise<unknown>
  execute(command: string, args?: object): Promise<unknown> {
    return this.#send('execute', command, args)
  }

  /** Executes a command ahead of those that wait, if the server can. @throws BlockError */
  executeOutOfBand(command: string, args?: object): Promise<unknown> {
    return this.#send('exec-oob', command, args)
  }

  #send(kind: string, command: string, args: object | undefined): Promise<unknown> {
    if (this.#failure !== undefined) {
      return Promise.reject(this.#failure)
    }
    const id = ++this.#lastId
    const text = wireText({ [kind]: command, ...(args === undefined ? {} : { arguments: args }), id })
    const bytes = new TextEncoder().encode(`${text}\r\n`)
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject })
      try {
        const wait = this.#socket.write(bytes, 0, bytes.length)
        wait?.catch((error: unknown) => this.#fail(error))
      } catch (error) {
        this.#fail(error)
      }
    })
  }

  /** Events from now on. Ends with the connection, or when the loop over it is left. */
  events(): AsyncIterableIterator<QmpEvent> {
    const queue = new EventQueue((one) => this.#queues.delete(one))
    if (this.#failure === undefined) {
      this.#queues.add(queue)
    } else {
      queue.end()
    }
    return queue
  }

  #message(value: WireValue): void {
    if (!isWireObject(value)) {
      return
    }
    if (value.event !== undefined) {
      const event = { data: {}, ...(plainValue(value) as object) } as unknown as QmpEvent
      for (const queue of this.#queues) {
        queue.push(event)
      }
      return
    }
    const id = typeof value.id === 'number' ? value.id : Number.NaN
    const pending = this.#pending.get(id)
    if (pending === undefined) {
      // An error without an id concerns what could not be read: nothing of ours.
      return
    }
    this.#pending.delete(id)
    if (isWireObject(value.error)) {
      pending.reject(serverError(value.error))
    } else {
      pending.resolve(plainValue(value.return ?? null))
    }
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined) {
      return
    }
    this.#failure =
      error instanceof BlockError ? error : blockError('EIO', 'The QMP connection failed', { cause: error })
    this.#socket.onReadable = undefined
    this.#socket.destroy()
    for (const [id, { reject }] of this.#pending) {
      this.#pending.delete(id)
      reject(this.#failure)
    }
    for (const queue of this.#queues) {
      queue.end()
    }
    this.#queues.clear()
  }

  /** Ends the connection; commands that wait for an answer fail. */
  close(): void {
    this.#fail(blockError('ECANCELED', 'The QMP connection has been closed'))
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close()
    return Promise.resolve()
  }
}

function serverError(error: WireObject): BlockError {
  const errorClass = typeof error.class === 'string' ? error.class : 'GenericError'
  const text = typeof error.desc === 'string' ? error.desc : 'The command failed'
  return blockError('EINVAL', text, { errorClass: errorClass as ErrorClass })
}

/** Methods by name, and the commands that they execute. */
const commandsByMethod: ReadonlyMap<string, string> = new Map(
  Object.keys(entities).map((name) => [
    name.replace(/[-_](.)/g, (_, letter: string) => letter.toUpperCase()),
    name,
  ]),
)
