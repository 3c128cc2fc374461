import { type BlockError, blockError, isBlockError } from '../errors/index.js'
import type { Wait } from '../sched/index.js'
import { isWireObject, type WireValue } from './json-number.js'
import { JsonStream } from './json-stream.js'
import type { QmpMonitor } from './monitor.js'
import { parseRequest, type QmpRequest } from './request.js'
import { wireText } from './wire-text.js'

/** How a session reaches its client. */
export interface QmpTransport {
  /** Sends text after all other. A promise: the client is slow. Must not throw; a broken connection ends by itself. */
  write(text: string): Wait
  /** Bytes that {@link write} still holds. */
  readonly backlog: number
  /** Whether input is wanted; false while enough waits to be executed. */
  setReading(wanted: boolean): void
  /** Drops the client. */
  drop(): void
}

/** Requests that wait before no more input is taken. */
const maxQueued = 8
/** Bytes of events that a client may leave unread before it is dropped. */
const maxBacklog = 8 * 1024 * 1024

interface Waiting {
  readonly id: WireValue | undefined
  /** What to execute, or what is wrong with it. */
  readonly request: QmpRequest | BlockError
}

/** A client of the monitor, from the greeting on. */
export class QmpSession {
  readonly #monitor: QmpMonitor
  readonly #transport: QmpTransport
  readonly #pretty: boolean
  readonly #stream: JsonStream
  readonly #queue: Waiting[] = []
  /** What came while enough waited. */
  readonly #unread: Uint8Array[] = []
  #negotiated = false
  #oob = false
  #executing = false
  /** An answer has not been taken yet. */
  #sending = false
  #closed = false

  constructor(monitor: QmpMonitor, transport: QmpTransport, pretty: boolean) {
    this.#monitor = monitor
    this.#transport = transport
    this.#pretty = pretty
    this.#stream = new JsonStream({
      message: (value) => this.#message(value),
      error: (error) => this.#enqueue({ id: undefined, request: error }),
    })
  }

  /** @internal */
  greet(): void {
    void this.#send({ QMP: { version: this.#monitor.version, capabilities: ['oob'] } })
  }

  /** Takes input; the buffer is the caller's again afterwards. */
  feed(bytes: Uint8Array, offset = 0, length = bytes.length - offset): void {
    if (this.#closed) {
      return
    }
    const done = this.#isFull ? 0 : this.#feedSome(bytes, offset, length)
    if (done < length) {
      this.#unread.push(bytes.slice(offset + done, offset + length))
    }
  }

  /** Takes input up to where enough waits. Returns how many bytes that was. */
  #feedSome(bytes: Uint8Array, offset: number, length: number): number {
    // Whoever sends many requests at once is looked at piece by piece.
    const step = 512
    let done = 0
    while (done < length && !this.#isFull) {
      const piece = Math.min(step, length - done)
      this.#stream.feed(bytes, offset + done, piece)
      done += piece
    }
    return done
  }

  get #isFull(): boolean {
    return this.#queue.length >= maxQueued
  }

  /** The client has gone: what waits is not executed any more. */
  close(): void {
    this.#closed = true
    this.#queue.length = 0
    this.#unread.length = 0
    this.#monitor.forget(this)
  }

  #message(value: WireValue): void {
    const id = isWireObject(value) && Object.hasOwn(value, 'id') ? value.id : undefined
    let request: QmpRequest | BlockError
    try {
      request = parseRequest(value, this.#oob)
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      request = error
    }
    if (!isBlockError(request) && request.oob) {
      void this.#answer({ id, request })
    } else {
      this.#enqueue({ id, request })
    }
  }

  #enqueue(waiting: Waiting): void {
    this.#queue.push(waiting)
    if (this.#isFull) {
      this.#transport.setReading(false)
    }
    if (!this.#executing && !this.#sending) {
      this.#monitor.schedule(this)
    }
  }

  /** @internal Executes the next request. True: there are more. */
  async executeNext(): Promise<boolean> {
    const next = this.#queue.shift()
    if (next === undefined) {
      return false
    }
    this.#executing = true
    try {
      await this.#answer(next)
    } finally {
      this.#executing = false
    }
    this.#takeUnread()
    return this.#queue.length > 0 && !this.#sending
  }

  #takeUnread(): void {
    while (!this.#closed && !this.#isFull) {
      const [bytes] = this.#unread
      if (bytes === undefined) {
        this.#transport.setReading(true)
        return
      }
      const done = this.#feedSome(bytes, 0, bytes.length)
      if (done === bytes.length) {
        this.#unread.shift()
      } else {
        this.#unread[0] = bytes.subarray(done)
      }
    }
  }

  async #answer({ id, request }: Waiting): Promise<void> {
    let reply: object
    try {
      if (isBlockError(request)) {
        throw request
      }
      reply = { return: await this.#execute(request) }
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      reply = { error: { class: error.errorClass, desc: error.message } }
    }
    if (!this.#closed) {
      this.#reply(id === undefined ? reply : { ...reply, id })
    }
  }

  /** Sends an answer. The next request of this client is executed when it can take it; others go on. */
  #reply(reply: object): void {
    const wait = this.#send(reply)
    if (wait !== undefined) {
      this.#sending = true
      void wait.then(() => {
        this.#sending = false
        if (this.#queue.length > 0 && !this.#closed) {
          this.#monitor.schedule(this)
        }
      })
    }
  }

  async #execute(request: QmpRequest): Promise<unknown> {
    const { command } = request
    if (!this.#negotiated) {
      if (command !== 'qmp_capabilities') {
        throw notFound("Expecting capabilities negotiation with 'qmp_capabilities'")
      }
      this.#oob = this.#monitor.capabilities(request.arguments).includes('oob')
      this.#negotiated = true
      return {}
    }
    if (command === 'qmp_capabilities' && !request.oob) {
      // What is wrong with the arguments comes first.
      this.#monitor.capabilities(request.arguments)
      throw notFound('Capabilities negotiation is already complete, command ignored')
    }
    return await this.#monitor.execute(request)
  }

  /** @internal An event. */
  notify(message: object): void {
    if (this.#negotiated && !this.#closed) {
      if (this.#transport.backlog > maxBacklog) {
        this.#transport.drop()
        return
      }
      void this.#send(message)
    }
  }

  #send(message: object): Wait {
    const text = `${wireText(message, this.#pretty)}\n`
    return this.#transport.write(text.replaceAll('\n', '\r\n'))
  }
}

function notFound(text: string): BlockError {
  return blockError('ENOENT', text, { errorClass: 'CommandNotFound' })
}
