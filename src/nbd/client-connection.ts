import { blockError, ioError } from '../errors/index.js'
import type { HostSocket } from '../host/index.js'
import type { ClientNegotiation } from './client-handshake.js'
import { IoBuffer } from './io-buffers.js'
import {
  Chunk,
  Cmd,
  CmdFlags,
  chunkBytes,
  chunkDone,
  chunkName,
  extendedChunkBytes,
  extendedReplyMagic,
  extendedRequestBytes,
  extendedRequestMagic,
  requestBytes,
  requestMagic,
  simpleReplyBytes,
  simpleReplyMagic,
  structuredReplyMagic,
} from './protocol.js'
import {
  errorOfChunk,
  offsetAt,
  type Pending,
  serverError,
  takeExtendedStatus,
  takeHole,
  takeStatus,
} from './reply-chunks.js'
import type { StatusSink } from './served-export.js'

/** Requests in flight on one connection; more wait. */
const maxRequests = 16
/** Bytes received at a time, apart from data that goes straight to where it is wanted. */
const inputBytes = 64 * 1024
/** Requests and short payloads are put together up to this, bytes. */
const batchBytes = 64 * 1024
/** Payloads up to this are copied into the batch, bytes. */
const copiedBytes = 16 * 1024
/** Longest chunk that is no data, bytes: a status reply has at most 2^17 extents of 8 bytes, or 16. */
const maxChunkBytes = (1 << 20) + 64
const maxExtendedChunkBytes = (2 << 20) + 64

/** What is being received. */
type Receiving =
  | { readonly what: 'head' }
  | {
      readonly what: 'chunk'
      readonly slot: number
      readonly type: number
      readonly flags: number
      readonly bytes: number
    }
  | { readonly what: 'data'; readonly slot: number; at: number; left: number; readonly done: boolean }

const head: Receiving = { what: 'head' }

/**
 * The client's half of the transmission phase: several requests at a time, whose replies may come in any
 * order and in pieces. When the connection fails, all of them do, and {@link onLost} is called.
 */
export class ClientConnection {
  readonly negotiation: ClientNegotiation
  /** Called once when the connection has failed or the server has left. */
  onLost: ((error: unknown) => void) | undefined = undefined
  readonly #socket: HostSocket
  readonly #extended: boolean
  readonly #requestBytes: number
  readonly #pending: (Pending | undefined)[] = Array.from({ length: maxRequests })
  readonly #freeSlots: number[] = Array.from({ length: maxRequests }, (_, i) => maxRequests - 1 - i)
  readonly #waiting: (() => void)[] = []
  readonly #input = new IoBuffer(inputBytes)
  #start = 0
  #end = 0
  #receiving: Receiving = head
  /** What follows the chunk at hand, if it is no head. */
  #next: Receiving | undefined = undefined
  /** Length of the data behind the offset that is being received, and whether it ends the reply. */
  #dataBytes = 0
  #dataDone = false
  #output = new IoBuffer(batchBytes)
  #outputBytes = 0
  #flushScheduled = false
  #lost: unknown = undefined

  constructor(negotiation: ClientNegotiation) {
    this.negotiation = negotiation
    this.#socket = negotiation.socket
    this.#extended = negotiation.headers === 'extended'
    this.#requestBytes = this.#extended ? extendedRequestBytes : requestBytes
    this.#socket.onReadable = this.#receive
    this.#receive()
  }

  /** Why the connection is of no use any more; undefined: it is. */
  get lost(): unknown {
    return this.#lost
  }

  /** Fills `buffer[bufferOffset, +bytes)`. @throws BlockError what the server answered; EIO if the connection fails */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    return this.#request(Cmd.read, 0, offset, bytes, buffer, bufferOffset)
  }

  write(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    fua: boolean,
  ): Promise<void> {
    return this.#request(Cmd.write, fua ? CmdFlags.fua : 0, offset, bytes, buffer, bufferOffset)
  }

  /** A request without data: flush, trim, write-zeroes. */
  command(type: number, flags: number, offset: number, bytes: number): Promise<void> {
    return this.#request(type, flags, offset, bytes, undefined, 0)
  }

  /** Describes the first extent of the range, or more if the server likes. */
  status(offset: number, bytes: number, out: StatusSink): Promise<void> {
    return this.#request(Cmd.blockStatus, CmdFlags.reqOne, offset, bytes, undefined, 0, out)
  }

  /** Says good-bye. No request may be in flight. */
  async close(): Promise<void> {
    this.onLost = undefined
    if (this.#lost === undefined) {
      this.#header(this.#room(this.#requestBytes), Cmd.disc, 0, 0, 0, 0)
      const wait = this.#flush()
      if (wait !== undefined) {
        await wait.catch(() => undefined)
      }
      this.#socket.onReadable = undefined
      this.#lost = ioError('EPIPE')
    }
    this.#socket.destroy()
  }

  async #request(
    type: number,
    flags: number,
    offset: number,
    bytes: number,
    buffer: Uint8Array | undefined,
    bufferOffset: number,
    status?: StatusSink,
  ): Promise<void> {
    while (this.#freeSlots.length === 0 && this.#lost === undefined) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve)
      })
    }
    if (this.#lost !== undefined) {
      throw this.#lostError()
    }
    const slot = this.#freeSlots.pop() as number
    const answered = new Promise<void>((resolve, reject) => {
      this.#pending[slot] = {
        type,
        offset,
        bytes,
        buffer: type === Cmd.read ? buffer : undefined,
        bufferOffset,
        status,
        filled: 0,
        error: undefined,
        resolve,
        reject,
      }
    })
    const payload = type === Cmd.write ? bytes : 0
    const copied = payload <= copiedBytes ? payload : 0
    const at = this.#room(this.#requestBytes + copied)
    // What the length means is told by a flag where both are possible.
    const more = this.#extended && type === Cmd.write ? CmdFlags.payloadLen : 0
    this.#header(at, type, flags | more, slot, offset, bytes)
    let sent: Promise<void> | undefined
    if (payload > 0 && buffer !== undefined) {
      if (copied > 0) {
        this.#output.bytes.set(buffer.subarray(bufferOffset, bufferOffset + bytes), at + this.#requestBytes)
        this.#outputBytes += bytes
      } else {
        sent = this.#sendPayload(buffer, bufferOffset, bytes)
      }
    }
    this.#scheduleFlush()
    try {
      await answered
    } finally {
      // The caller's buffer must not be in use any more, even if the answer came before all was sent.
      if (sent !== undefined) {
        await sent.catch(() => undefined)
      }
    }
  }

  #header(at: number, type: number, flags: number, slot: number, offset: number, bytes: number): void {
    const { view } = this.#output
    view.setUint32(at, this.#extended ? extendedRequestMagic : requestMagic)
    view.setUint16(at + 4, flags)
    view.setUint16(at + 6, type)
    view.setUint32(at + 8, 0)
    view.setUint32(at + 12, slot)
    view.setUint32(at + 16, offset / 0x1_0000_0000)
    view.setUint32(at + 20, offset)
    if (this.#extended) {
      view.setUint32(at + 24, bytes / 0x1_0000_0000)
      view.setUint32(at + 28, bytes)
    } else {
      view.setUint32(at + 24, bytes)
    }
    this.#outputBytes += this.#requestBytes
  }

  /** Where `bytes` more bytes go in the batch. */
  #room(bytes: number): number {
    if (this.#outputBytes + bytes > batchBytes) {
      void this.#flush()
    }
    return this.#outputBytes
  }

  /** What is asked for in one go leaves in one go. */
  #scheduleFlush(): void {
    if (!this.#flushScheduled) {
      this.#flushScheduled = true
      queueMicrotask(() => {
        this.#flushScheduled = false
        void this.#flush()
      })
    }
  }

  #flush(): Promise<void> | undefined {
    const bytes = this.#outputBytes
    if (bytes === 0 || this.#lost !== undefined) {
      return undefined
    }
    const output = this.#output
    this.#outputBytes = 0
    try {
      const wait = this.#socket.write(output.bytes, 0, bytes)
      if (wait === undefined) {
        return undefined
      }
      this.#output = new IoBuffer(batchBytes)
      wait.catch(this.#fail)
      return wait
    } catch (error) {
      this.#fail(error)
      return undefined
    }
  }

  #sendPayload(buffer: Uint8Array, offset: number, bytes: number): Promise<void> | undefined {
    void this.#flush()
    if (this.#lost !== undefined) {
      return undefined
    }
    try {
      const wait = this.#socket.write(buffer, offset, bytes)
      wait?.catch(this.#fail)
      return wait
    } catch (error) {
      this.#fail(error)
      return undefined
    }
  }

  /** How requests fail on a connection that is lost. */
  #lostError(): unknown {
    return ioError('EIO')
  }

  readonly #fail = (error: unknown): void => {
    if (this.#lost !== undefined) {
      return
    }
    this.#lost = error
    this.#socket.onReadable = undefined
    this.#socket.destroy()
    for (const [slot, pending] of this.#pending.entries()) {
      if (pending !== undefined) {
        this.#pending[slot] = undefined
        pending.reject(this.#lostError())
      }
    }
    for (const wake of this.#waiting.splice(0)) {
      wake()
    }
    this.onLost?.(error)
  }

  #finish(slot: number): void {
    const pending = this.#pending[slot] as Pending
    this.#pending[slot] = undefined
    this.#freeSlots.push(slot)
    this.#waiting.shift()?.()
    if (pending.error !== undefined) {
      pending.reject(pending.error)
    } else if (pending.type === Cmd.read && pending.filled < pending.bytes) {
      pending.reject(ioError('EIO'))
    } else {
      pending.resolve()
    }
  }

  readonly #receive = (): void => {
    let drained = false
    try {
      for (;;) {
        while (this.#lost === undefined && this.#take()) {
          // One piece after the other.
        }
        if (this.#lost !== undefined || drained || !this.#more()) {
          return
        }
        drained = !this.#filled
      }
    } catch (error) {
      this.#fail(error)
    }
  }

  /** Receives more; false: there is nothing now. */
  #more(): boolean {
    const receiving = this.#receiving
    let got: number | undefined
    let asked: number
    if (receiving.what === 'data') {
      // Nothing of it is in the input any more.
      const pending = this.#pending[receiving.slot] as Pending
      const at = pending.bufferOffset + receiving.at
      asked = receiving.left
      got = this.#socket.read(pending.buffer as Uint8Array, at, asked)
      if (got !== undefined && got > 0) {
        receiving.at += got
        receiving.left -= got
      }
    } else {
      const input = this.#inputRoom()
      asked = input.bytes.length - this.#end
      got = this.#socket.read(input.bytes, this.#end, asked)
      this.#end += got ?? 0
    }
    if (got === 0) {
      throw blockError('EIO', 'Unexpected end-of-file before all bytes were read')
    }
    this.#filled = got === asked
    return got !== undefined
  }

  /** Whether the last {@link #more} got all that it asked for. */
  #filled = false

  /** Long chunks other than data are rare; they get an input of their own. */
  #large: IoBuffer | undefined = undefined

  #inputRoom(): IoBuffer {
    const needed = this.#receiving.what === 'chunk' ? this.#receiving.bytes : 0
    const current = this.#current
    if (this.#start > 0) {
      current.bytes.copyWithin(0, this.#start, this.#end)
      this.#end -= this.#start
      this.#start = 0
    }
    if (needed > current.bytes.length) {
      this.#large = new IoBuffer(needed)
      this.#large.bytes.set(current.bytes.subarray(0, this.#end))
      return this.#large
    }
    if (this.#large !== undefined && this.#end === 0) {
      this.#large = undefined
    }
    return this.#current
  }

  get #current(): IoBuffer {
    return this.#large ?? this.#input
  }

  /** Takes a piece out of the input; false: more of it has to come. */
  #take(): boolean {
    const receiving = this.#receiving
    const have = this.#end - this.#start
    switch (receiving.what) {
      case 'head':
        return this.#takeHead(have)
      case 'chunk':
        if (have < receiving.bytes) {
          return false
        }
        this.#chunk(receiving.slot, receiving.type, receiving.bytes)
        this.#start += receiving.bytes
        this.#receiving = this.#next ?? head
        this.#next = undefined
        if ((receiving.flags & chunkDone) !== 0) {
          this.#finish(receiving.slot)
        }
        return true
      default: {
        const pending = this.#pending[receiving.slot] as Pending
        const count = Math.min(have, receiving.left)
        if (count > 0) {
          const from = this.#start
          const to = pending.bufferOffset + receiving.at
          ;(pending.buffer as Uint8Array).set(this.#current.bytes.subarray(from, from + count), to)
          this.#start += count
          receiving.at += count
          receiving.left -= count
        }
        if (receiving.left > 0) {
          return false
        }
        this.#receiving = head
        if (receiving.done) {
          this.#finish(receiving.slot)
        }
        return true
      }
    }
  }

  #slotOf(at: number): number {
    const { view } = this.#current
    const slot = view.getUint32(at + 8) === 0 ? view.getUint32(at + 12) : maxRequests
    if (slot >= maxRequests || this.#pending[slot] === undefined) {
      throw blockError('EINVAL', 'Protocol error: reply to an unknown request')
    }
    return slot
  }

  #takeHead(have: number): boolean {
    if (have < simpleReplyBytes) {
      return false
    }
    const { view } = this.#current
    const at = this.#start
    const magic = view.getUint32(at)
    if (magic === extendedReplyMagic && this.#extended) {
      return this.#takeExtendedHead(have)
    }
    if (magic === simpleReplyMagic && !this.#extended) {
      this.#start += simpleReplyBytes
      this.#simple(this.#slotOf(at), view.getUint32(at + 4))
      return true
    }
    if (magic !== structuredReplyMagic || this.negotiation.headers !== 'structured') {
      throw blockError('EINVAL', `invalid magic (got 0x${magic.toString(16)})`)
    }
    if (have < chunkBytes) {
      return false
    }
    const slot = this.#slotOf(at)
    this.#start += chunkBytes
    this.#chunkHead(slot, view.getUint16(at + 6), view.getUint16(at + 4), view.getUint32(at + 16))
    return true
  }

  #takeExtendedHead(have: number): boolean {
    if (have < extendedChunkBytes) {
      return false
    }
    const { view } = this.#current
    const at = this.#start
    const slot = this.#slotOf(at)
    const { offset } = this.#pending[slot] as Pending
    if (offsetAt(view, at + 16) !== offset) {
      const text = `reply for offset ${offsetAt(view, at + 16)}, when ${offset} was asked for`
      throw blockError('EINVAL', `Protocol error: ${text}`)
    }
    this.#start += extendedChunkBytes
    this.#chunkHead(slot, view.getUint16(at + 6), view.getUint16(at + 4), offsetAt(view, at + 24))
    return true
  }

  #simple(slot: number, error: number): void {
    const pending = this.#pending[slot] as Pending
    if (error !== 0) {
      pending.error = serverError(error, '')
      this.#finish(slot)
      return
    }
    if (pending.type !== Cmd.read && pending.type !== Cmd.blockStatus) {
      this.#finish(slot)
      return
    }
    if (this.negotiation.headers !== 'simple') {
      throw blockError('EINVAL', 'Protocol error: simple reply when structured reply chunk was expected')
    }
    pending.filled = pending.bytes
    this.#receiving = { what: 'data', slot, at: 0, left: pending.bytes, done: true }
  }

  #chunkHead(slot: number, type: number, flags: number, bytes: number): void {
    const pending = this.#pending[slot] as Pending
    if (type === Chunk.offsetData && pending.type === Cmd.read && bytes > 8) {
      // Only the offset goes through the input.
      if (bytes - 8 > pending.bytes) {
        throw blockError('EINVAL', 'Protocol error: server sent chunk exceeding requested region')
      }
      this.#dataBytes = bytes - 8
      this.#receiving = { what: 'chunk', slot, type, flags: flags & ~chunkDone, bytes: 8 }
      this.#dataDone = (flags & chunkDone) !== 0
      return
    }
    if (bytes > (this.#extended ? maxExtendedChunkBytes : maxChunkBytes)) {
      throw blockError('EINVAL', `Protocol error: ${chunkName(type)} chunk of ${bytes} bytes`)
    }
    this.#receiving = { what: 'chunk', slot, type, flags, bytes }
  }

  /** The payload of a chunk has come; it stands at the start of the input. */
  #chunk(slot: number, type: number, bytes: number): void {
    const pending = this.#pending[slot] as Pending
    const { view } = this.#current
    const at = this.#start
    switch (type) {
      case Chunk.none:
        if (bytes !== 0) {
          throw blockError('EINVAL', 'Protocol error: NBD_REPLY_TYPE_NONE chunk with nonzero length')
        }
        return
      case Chunk.offsetData:
        if (pending.type !== Cmd.read) {
          throw blockError('EINVAL', 'Unexpected NBD_REPLY_TYPE_OFFSET_DATA chunk')
        }
        if (bytes !== 8) {
          throw blockError('EINVAL', 'Protocol error: invalid payload for NBD_REPLY_TYPE_OFFSET_DATA')
        }
        this.#beginData(slot, pending, at)
        return
      case Chunk.offsetHole:
        if (pending.type !== Cmd.read || bytes !== 12) {
          throw blockError('EINVAL', 'Protocol error: invalid payload for NBD_REPLY_TYPE_OFFSET_HOLE')
        }
        takeHole(pending, offsetAt(view, at), view.getUint32(at + 8))
        return
      case Chunk.blockStatus:
        takeStatus(pending, this.negotiation, view, at, bytes)
        return
      case Chunk.blockStatusExt:
        takeExtendedStatus(pending, this.negotiation, view, at, bytes)
        return
      default:
        if ((type & 0x8000) === 0) {
          throw blockError('EINVAL', `Unexpected reply type: ${type} (${chunkName(type)})`)
        }
        pending.error ??= errorOfChunk(this.#current, at, bytes)
    }
  }

  #beginData(slot: number, pending: Pending, at: number): void {
    const offset = offsetAt(this.#current.view, at)
    const length = this.#dataBytes
    if (offset < pending.offset || offset + length > pending.offset + pending.bytes) {
      throw blockError('EINVAL', 'Protocol error: server sent chunk exceeding requested region')
    }
    pending.filled += length
    this.#next = { what: 'data', slot, at: offset - pending.offset, left: length, done: this.#dataDone }
  }
}
