import { blockError, codeOf, isBlockError } from '../errors/index.js'
import type { HostSocket } from '../host/index.js'
import { TimeSlice, type Wait } from '../sched/index.js'
import { IoBuffer, type IoBufferPool, pooledBytes } from './io-buffers.js'
import {
  Cmd,
  CmdFlags,
  extendedRequestBytes,
  extendedRequestMagic,
  maxPayloadBytes,
  requestBytes,
  requestMagic,
} from './protocol.js'
import { ReplyWriter } from './reply-writer.js'
import type { MetaContext, ServedExport } from './served-export.js'
import type { ServerNegotiation } from './server-handshake.js'
import { type Refusal, Request, refusalOf } from './server-request.js'
import { StatusList } from './status-list.js'
import { wireError } from './wire-errors.js'

/** Requests of one client that are carried out at the same time. */
const maxRequests = 16
/** Bytes of their data together; one request alone may have more. */
const maxRequestBytes = 16 << 20
/** Bytes of the requests and replies of all clients; one request of each is always carried out. */
const maxSharedBytes = 96 << 20
/** Replies that a client does not take, bytes: no more requests of his are looked at meanwhile. */
const maxPendingBytes = 256 * 1024
/** Payloads up to this are received along with other requests; longer ones into a buffer of their own. Bytes. */
const inlinePayloadBytes = 64 * 1024
/** Reads up to this put their data straight into the batch of replies, bytes. */
const batchedReadBytes = 256 * 1024
/** What a client that never stops sending is served before others have their turn, bytes. */
const turnBytes = 4 << 20
/** First buffer for a payload: it grows with what really arrives. */
const firstPayloadBytes = 1 << 20

/** A payload that is being received. */
interface Incoming {
  readonly request: Request
  buffer: IoBuffer | undefined
  have: number
  readonly bytes: number
  /** Why the request fails once the payload is out of the way. */
  readonly refusal: Refusal | undefined
}

/**
 * The server's half of the transmission phase with one client: takes requests from the socket, has the
 * export carry them out, and sends replies. A request whose data is at hand makes no promise.
 */
export class ServerTransmission {
  readonly #socket: HostSocket
  readonly #export: ServedExport
  readonly #contexts: readonly MetaContext[]
  readonly #headers: ServerNegotiation['headers']
  readonly #headBytes: number
  readonly #pool: IoBufferPool
  readonly #replies: ReplyWriter
  readonly #current = new Request()
  /** `[start, end)` of the buffer has been received and not looked at. */
  #input: IoBuffer | undefined = undefined
  #start = 0
  #end = 0
  #incoming: Incoming | undefined = undefined
  #inFlight = 0
  #inFlightBytes = 0
  /** The last read, or write, had to wait: the next ones get buffers of their own right away. */
  #readsWait = false
  #writesWait = false
  #leaving = false
  #error: unknown = undefined
  #running = false
  #finished: (() => void) | undefined = undefined

  constructor(negotiation: ServerNegotiation, pool: IoBufferPool) {
    this.#socket = negotiation.socket
    this.#export = negotiation.export
    this.#contexts = negotiation.contexts
    this.#headers = negotiation.headers
    this.#headBytes = this.#headers === 'extended' ? extendedRequestBytes : requestBytes
    this.#pool = pool
    this.#replies = new ReplyWriter(
      this.#socket,
      pool,
      this.#headers,
      () => this.#resume(),
      (error) => this.#fail(error),
    )
  }

  /**
   * Serves the client until it leaves, and then until its requests are done.
   * @throws BlockError why the client had to be disconnected
   */
  async run(): Promise<void> {
    const finished = new Promise<void>((resolve) => {
      this.#finished = resolve
    })
    this.#socket.onReadable = this.#serve
    this.#serve()
    await finished
    if (this.#error !== undefined) {
      throw this.#error
    }
  }

  /** Ends the connection: requests in flight are finished, but nothing new is taken. */
  stop(): void {
    this.#leave()
  }

  #fail(error: unknown): void {
    this.#error ??= error
    this.#leave()
  }

  #leave(): void {
    this.#leaving = true
    this.#socket.onReadable = undefined
    this.#checkFinished()
  }

  #checkFinished(): void {
    if (this.#leaving && this.#inFlight === 0 && !this.#running) {
      this.#releaseInput()
      this.#finished?.()
    }
  }

  /** Something ended that may have kept requests from being taken. */
  #resume(): void {
    this.#checkFinished()
    if (this.#socket.paused && this.#mayTake() && !this.#leaving) {
      this.#socket.paused = false
      this.#serve()
    }
  }

  #mayTake(): boolean {
    if (this.#inFlight === 0 && this.#replies.pendingBytes === 0) {
      return true
    }
    return (
      this.#pool.busyBytes < maxSharedBytes &&
      this.#inFlight < maxRequests &&
      this.#inFlightBytes < maxRequestBytes &&
      this.#replies.pendingBytes < maxPendingBytes
    )
  }

  readonly #serve = (): void => {
    if (this.#running || this.#leaving) {
      return
    }
    this.#running = true
    try {
      this.#serveArrived()
      this.#replies.rest()
    } catch (error) {
      this.#fail(error)
    }
    if (this.#start === this.#end) {
      this.#releaseInput()
    }
    this.#running = false
    this.#checkFinished()
  }

  #serveArrived(): void {
    let turn = turnBytes
    let drained = false
    while (!this.#leaving) {
      if (!this.#mayTake()) {
        this.#socket.paused = true
        return
      }
      if (this.#incoming !== undefined ? !this.#payloadComplete() : !this.#takeRequest()) {
        if (drained) {
          return
        }
        const got = this.#receive()
        if (got < 0) {
          return
        }
        drained = !this.#filled
        turn -= got
        if (turn < 0 && !drained) {
          void new TimeSlice().yield().then(this.#serve)
          return
        }
      }
    }
  }

  /** Whether the last {@link #receive} got all that it asked for. */
  #filled = false

  /** Receives some bytes; -1: there is nothing now, or nothing any more. */
  #receive(): number {
    const incoming = this.#incoming
    let buffer: IoBuffer
    let at: number
    let room: number
    if (incoming !== undefined) {
      buffer = this.#payloadRoom(incoming)
      at = incoming.refusal === undefined ? incoming.have : 0
      room = Math.min(incoming.bytes - incoming.have, buffer.bytes.length - at)
    } else {
      buffer = this.#inputRoom()
      at = this.#end
      room = pooledBytes - at
    }
    const got = this.#socket.read(buffer.bytes, at, room)
    if (got === undefined) {
      return -1
    }
    if (got === 0) {
      if (this.#start !== this.#end || incoming !== undefined) {
        this.#error ??= blockError('EIO', 'Unexpected end-of-file before all bytes were read')
      }
      this.#leave()
      return -1
    }
    this.#filled = got === room
    if (incoming !== undefined) {
      incoming.have += got
    } else {
      this.#end += got
    }
    return got
  }

  /** The input buffer, with room behind what has been received. */
  #inputRoom(): IoBuffer {
    this.#input ??= this.#pool.take(pooledBytes)
    if (this.#start > 0) {
      // What is left is less than one request that fits.
      this.#input.bytes.copyWithin(0, this.#start, this.#end)
      this.#end -= this.#start
      this.#start = 0
    }
    return this.#input
  }

  #releaseInput(): void {
    if (this.#input !== undefined) {
      this.#pool.drop(this.#input)
      this.#input = undefined
    }
    this.#start = 0
    this.#end = 0
  }

  /** A buffer for the next part of a payload; what is refused goes anywhere. */
  #payloadRoom(incoming: Incoming): IoBuffer {
    const { buffer, have, bytes, refusal } = incoming
    if (buffer === undefined) {
      incoming.buffer = this.#pool.take(refusal === undefined ? Math.min(bytes, firstPayloadBytes) : 1)
      return incoming.buffer
    }
    if (refusal !== undefined || have < buffer.bytes.length) {
      return buffer
    }
    const larger = new IoBuffer(Math.min(bytes, buffer.bytes.length * 4))
    larger.bytes.set(buffer.bytes)
    this.#pool.drop(buffer)
    incoming.buffer = larger
    return larger
  }

  /** Takes the next request from the input; false: it is not there yet. */
  #takeRequest(): boolean {
    const input = this.#input
    const have = this.#end - this.#start
    if (input === undefined || have < this.#headBytes) {
      return false
    }
    const { view } = input
    const at = this.#start
    const extended = this.#headers === 'extended'
    const magic = view.getUint32(at)
    if (magic !== (extended ? extendedRequestMagic : requestMagic)) {
      throw blockError('EINVAL', `invalid magic (got 0x${magic.toString(16)})`)
    }
    const request = this.#current
    request.parse(view, at, extended)
    const payload =
      request.type === Cmd.write || (extended && (request.flags & CmdFlags.payloadLen) !== 0)
        ? request.bytes
        : 0
    if (payload > 0) {
      return this.#takeWithPayload(request, payload, have)
    }
    this.#start += this.#headBytes
    if (request.type === Cmd.disc) {
      this.#leave()
      return true
    }
    const refusal = refusalOf(request, this.#headers, this.#export)
    if (refusal === undefined) {
      this.#carryOut(request)
    } else {
      this.#replies.error(request, refusal.error, refusal.text)
    }
    return true
  }

  #takeWithPayload(request: Request, payload: number, have: number): boolean {
    if (payload > maxPayloadBytes) {
      const text = `len (${payload}) is larger than max len (${maxPayloadBytes})`
      this.#replies.error(request, 22, text)
      throw blockError('EINVAL', 'Request handling failed in intermediate state')
    }
    const present = have - this.#headBytes
    if (present < payload && payload <= inlinePayloadBytes) {
      return false
    }
    const refusal = refusalOf(request, this.#headers, this.#export)
    const from = this.#start + this.#headBytes
    const input = this.#input as IoBuffer
    if (present >= payload) {
      this.#start = from + payload
      if (refusal !== undefined) {
        this.#replies.error(request, refusal.error, refusal.text)
      } else if (this.#writesWait) {
        const own = new IoBuffer(payload)
        own.bytes.set(input.bytes.subarray(from, from + payload))
        this.#write(request, own, 0)
      } else {
        input.users++
        this.#write(request, input, from)
      }
      return true
    }
    const incoming: Incoming = {
      request: new Request().assign(request),
      buffer: undefined,
      have: 0,
      bytes: payload,
      refusal,
    }
    this.#incoming = incoming
    if (refusal === undefined && present > 0) {
      this.#payloadRoom(incoming).bytes.set(input.bytes.subarray(from, this.#end))
    }
    incoming.have = present
    this.#start = this.#end
    return true
  }

  /** Carries out a write whose payload had its own way in; false: it is not complete. */
  #payloadComplete(): boolean {
    const incoming = this.#incoming as Incoming
    if (incoming.have < incoming.bytes) {
      return false
    }
    this.#incoming = undefined
    const { request, buffer, refusal } = incoming
    if (refusal !== undefined) {
      if (buffer !== undefined) {
        this.#pool.drop(buffer)
      }
      this.#replies.error(request, refusal.error, refusal.text)
    } else {
      this.#write(request, buffer as IoBuffer, 0)
    }
    return true
  }

  /** Requests without payload. */
  #carryOut(request: Request): void {
    const { type, offset, bytes, flags } = request
    const fua = (flags & CmdFlags.fua) !== 0
    switch (type) {
      case Cmd.read:
        if (fua) {
          this.#begin(
            request,
            0,
            'flush failed',
            () => this.#export.flush(),
            (later) => this.#read(later),
          )
        } else {
          this.#read(request)
        }
        return
      case Cmd.write:
        // Without a byte to write.
        this.#acknowledge(request, 'writing to file failed', () => (fua ? this.#export.flush() : undefined))
        return
      case Cmd.flush:
        this.#acknowledge(request, 'flush failed', () => this.#export.flush())
        return
      case Cmd.trim:
        this.#acknowledge(request, 'discard failed', () => {
          const wait = this.#export.trim(offset, bytes)
          if (!fua) {
            return wait
          }
          return wait === undefined ? this.#export.flush() : wait.then(() => this.#export.flush())
        })
        return
      case Cmd.cache:
        this.#acknowledge(request, 'caching data failed', () => this.#export.cache(offset, bytes))
        return
      case Cmd.writeZeroes: {
        const wish = {
          fua,
          mayUnmap: (flags & CmdFlags.noHole) === 0,
          fast: (flags & CmdFlags.fastZero) !== 0,
        }
        this.#acknowledge(request, 'writing to file failed', () =>
          this.#export.writeZeroes(offset, bytes, wish),
        )
        return
      }
      default:
        this.#status(request)
    }
  }

  #acknowledge(request: Request, failure: string, run: () => Wait): void {
    this.#begin(request, 0, failure, run, (done) => this.#replies.done(done))
  }

  /**
   * Runs a request's work, which may end later; `after` replies. The request object is reused when the
   * work is done at once, and copied else.
   */
  #begin(
    request: Request,
    dataBytes: number,
    failure: string,
    run: () => Wait,
    after: (request: Request) => void,
    release?: () => void,
  ): boolean {
    let wait: Wait
    try {
      wait = run()
    } catch (error) {
      release?.()
      this.#replyError(request, error, failure)
      return false
    }
    if (wait === undefined) {
      after(request)
      release?.()
      return false
    }
    const later = new Request().assign(request)
    this.#inFlight++
    this.#inFlightBytes += dataBytes
    this.#pool.busyBytes += dataBytes
    this.#socket.engaged = true
    wait
      .then(
        () => after(later),
        (error: unknown) => this.#replyError(later, error, failure),
      )
      .catch((error: unknown) => this.#fail(error))
      .finally(() => {
        release?.()
        this.#inFlight--
        this.#inFlightBytes -= dataBytes
        this.#pool.busyBytes -= dataBytes
        this.#socket.engaged = this.#inFlight > 0
        if (!this.#running) {
          this.#replies.rest()
        }
        this.#resume()
      })
    return true
  }

  #replyError(request: Request, error: unknown, text: string): void {
    if (!isBlockError(error)) {
      // A mistake of ours: nothing is certain any more.
      throw error
    }
    this.#replies.error(request, wireError(codeOf(error)), text)
  }

  #read(request: Request): void {
    const { offset, bytes } = request
    if (bytes === 0) {
      this.#replies.emptyChunk(request)
      return
    }
    if (
      this.#headers !== 'simple' &&
      (request.flags & CmdFlags.df) === 0 &&
      this.#export.readsAsZeroes(offset, bytes)
    ) {
      this.#replies.hole(request, bytes)
      return
    }
    if (bytes > batchedReadBytes || this.#readsWait) {
      this.#readApart(request)
      return
    }
    const buffer = this.#replies.beginRead(bytes)
    const at = this.#replies.readDataOffset
    let wait: Wait
    try {
      wait = this.#export.read(offset, bytes, buffer.bytes, at)
    } catch (error) {
      this.#replyError(request, error, 'reading from file failed')
      return
    }
    if (wait === undefined) {
      this.#replies.endRead(request, buffer, bytes)
      return
    }
    this.#readsWait = true
    this.#replies.detach(buffer)
    const begin = wait
    this.#begin(
      request,
      bytes,
      'reading from file failed',
      () => begin,
      (done) => this.#replies.sendRead(done, buffer, at - this.#replies.readHeadBytes, bytes),
      () => this.#pool.drop(buffer),
    )
  }

  /** A read with a buffer of its own. */
  #readApart(request: Request): void {
    const { offset, bytes } = request
    const head = this.#replies.readHeadBytes
    // A short one must not hold a long buffer while it waits.
    const buffer = bytes > batchedReadBytes / 4 ? this.#pool.take(head + bytes) : new IoBuffer(head + bytes)
    this.#readsWait = this.#begin(
      request,
      bytes,
      'reading from file failed',
      () => this.#export.read(offset, bytes, buffer.bytes, head),
      (done) => this.#replies.sendRead(done, buffer, 0, bytes),
      () => this.#pool.drop(buffer),
    )
  }

  /** A write of data in `buffer`, of which the request is one user. */
  #write(request: Request, buffer: IoBuffer, at: number): void {
    const { offset, bytes, flags } = request
    this.#writesWait = this.#begin(
      request,
      bytes,
      'writing to file failed',
      () => this.#export.write(offset, bytes, buffer.bytes, at, (flags & CmdFlags.fua) !== 0),
      (done) => this.#replies.done(done),
      () => this.#pool.drop(buffer),
    )
    if (this.#writesWait && buffer === this.#input) {
      // What else has arrived moves out, so that the write has its data for itself.
      const next = this.#pool.take(pooledBytes)
      next.bytes.set(buffer.bytes.subarray(this.#start, this.#end))
      this.#end -= this.#start
      this.#start = 0
      this.#input = next
      this.#pool.drop(buffer)
    }
  }

  #status(request: Request): void {
    const { offset, bytes, flags } = request
    if (bytes === 0) {
      this.#replies.error(request, 22, 'need non-zero length')
      return
    }
    const contexts = this.#contexts
    if (contexts.length === 0) {
      this.#replies.error(request, 22, 'CMD_BLOCK_STATUS not negotiated')
      return
    }
    const lists = contexts.map(() => new StatusList(bytes, (flags & CmdFlags.reqOne) !== 0))
    const describe = async (): Promise<void> => {
      for (const [i, context] of contexts.entries()) {
        const wait = context.describe(offset, bytes, lists[i] as StatusList)
        if (wait !== undefined) {
          await wait
        }
      }
    }
    this.#begin(request, 0, "can't get block status", describe, (done) => {
      for (const [i, context] of contexts.entries()) {
        this.#replies.status(done, context.id, (lists[i] as StatusList).pairs, i === contexts.length - 1)
      }
    })
  }
}
