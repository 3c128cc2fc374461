import type { HostSocket } from '../host/index.js'
import type { Wait } from '../sched/index.js'
import { IoBuffer, type IoBufferPool, pooledBytes } from './io-buffers.js'
import {
  Chunk,
  chunkBytes,
  chunkDone,
  extendedChunkBytes,
  extendedReplyMagic,
  simpleReplyBytes,
  simpleReplyMagic,
  structuredReplyMagic,
} from './protocol.js'
import type { ServerNegotiation } from './server-handshake.js'

/** A batch is sent when it is as long, bytes: the client has something to do while more is read. */
const batchBytes = 128 * 1024

const encoder = new TextEncoder()

/** What names a request in its reply: the cookie's halves, and its offset. */
export interface RequestTag {
  readonly high: number
  readonly low: number
  readonly offset: number
}

/** Merged extents of one context, as they are sent: pairs of length and flags. */
export type StatusPairs = readonly number[]

/**
 * Puts replies together and sends them in batches: those that are ready in one turn leave with one
 * system call.
 */
export class ReplyWriter {
  readonly #socket: HostSocket
  readonly #pool: IoBufferPool
  readonly #headers: ServerNegotiation['headers']
  readonly #onSent: () => void
  readonly #onError: (error: unknown) => void
  #batch: IoBuffer | undefined = undefined
  /** `[sent, length)` of the batch is still to be sent. */
  #sent = 0
  #length = 0
  /** Bytes handed to the socket that the kernel has not taken yet. */
  pendingBytes = 0
  /** Bytes in front of the data of a read's reply. */
  readonly readHeadBytes: number

  constructor(
    socket: HostSocket,
    pool: IoBufferPool,
    headers: ServerNegotiation['headers'],
    onSent: () => void,
    onError: (error: unknown) => void,
  ) {
    this.#socket = socket
    this.#pool = pool
    this.#headers = headers
    this.#onSent = onSent
    this.#onError = onError
    this.readHeadBytes =
      headers === 'simple'
        ? simpleReplyBytes
        : (headers === 'structured' ? chunkBytes : extendedChunkBytes) + 8
  }

  /** The batch with room for `bytes` more, at most {@link pooledBytes}. */
  #room(bytes: number): IoBuffer {
    if (this.#batch !== undefined && this.#length + bytes > pooledBytes) {
      this.flush()
    }
    this.#batch ??= this.#pool.take(pooledBytes)
    return this.#batch
  }

  #added(bytes: number): void {
    this.#length += bytes
    if (this.#length - this.#sent >= batchBytes) {
      this.flush()
    }
  }

  /** Sends what there is. */
  flush(): void {
    const batch = this.#batch
    if (batch === undefined) {
      return
    }
    const bytes = this.#length - this.#sent
    if (bytes > 0) {
      const wait = this.#send(batch, this.#sent, bytes)
      this.#sent = this.#length
      if (wait) {
        this.#abandon()
        return
      }
    }
    if (batch.users === 1) {
      this.#sent = 0
      this.#length = 0
    }
  }

  /** Sends, and drops the batch until there is more. */
  rest(): void {
    this.flush()
    this.#abandon()
  }

  #abandon(): void {
    if (this.#batch !== undefined) {
      this.#pool.drop(this.#batch)
      this.#batch = undefined
      this.#sent = 0
      this.#length = 0
    }
  }

  /** True: it takes longer, and the buffer is in use until then. */
  #send(buffer: IoBuffer, offset: number, bytes: number): boolean {
    let wait: Wait
    try {
      wait = this.#socket.write(buffer.bytes, offset, bytes)
    } catch (error) {
      this.#onError(error)
      return false
    }
    if (wait === undefined) {
      return false
    }
    buffer.users++
    this.pendingBytes += bytes
    this.#pool.busyBytes += bytes
    const done = (): void => {
      this.pendingBytes -= bytes
      this.#pool.busyBytes -= bytes
      this.#pool.drop(buffer)
    }
    wait.then(
      () => {
        done()
        this.#onSent()
      },
      (error: unknown) => {
        done()
        this.#onError(error)
      },
    )
    return true
  }

  /**
   * Where the data of a read may go so that the reply needs no copy: into the batch, behind the room for
   * the head. Follow it with {@link endRead}, or, if the data takes longer, with {@link detach}.
   */
  beginRead(bytes: number): IoBuffer {
    return this.#room(this.readHeadBytes + bytes)
  }

  /** Offset of the data in the buffer that {@link beginRead} gave. */
  get readDataOffset(): number {
    return this.#length + this.readHeadBytes
  }

  /** The data is there: the reply is complete. */
  endRead(tag: RequestTag, buffer: IoBuffer, bytes: number): void {
    this.#readHead(tag, buffer, this.#length, bytes)
    this.#added(this.readHeadBytes + bytes)
  }

  /** The data comes later: what is before it leaves, and the buffer belongs to the read. */
  detach(buffer: IoBuffer): void {
    buffer.users++
    this.rest()
  }

  /** Sends a read's reply whose data stands in a buffer of its own, behind room for the head at `at`. */
  sendRead(tag: RequestTag, buffer: IoBuffer, at: number, bytes: number): void {
    this.flush()
    this.#readHead(tag, buffer, at, bytes)
    this.#send(buffer, at, this.readHeadBytes + bytes)
  }

  #readHead(tag: RequestTag, { view }: IoBuffer, at: number, bytes: number): void {
    if (this.#headers === 'simple') {
      view.setUint32(at, simpleReplyMagic)
      view.setUint32(at + 4, 0)
      view.setUint32(at + 8, tag.high)
      view.setUint32(at + 12, tag.low)
      return
    }
    const data = this.#chunkHead(view, at, tag, Chunk.offsetData, chunkDone, bytes + 8)
    setOffset(view, data, tag.offset)
  }

  /** Returns where the chunk's payload begins. */
  #chunkHead(
    view: DataView,
    at: number,
    tag: RequestTag,
    type: number,
    flags: number,
    payload: number,
  ): number {
    const extended = this.#headers === 'extended'
    view.setUint32(at, extended ? extendedReplyMagic : structuredReplyMagic)
    view.setUint16(at + 4, flags)
    view.setUint16(at + 6, type)
    view.setUint32(at + 8, tag.high)
    view.setUint32(at + 12, tag.low)
    if (!extended) {
      view.setUint32(at + 16, payload)
      return at + chunkBytes
    }
    setOffset(view, at + 16, tag.offset)
    setOffset(view, at + 24, payload)
    return at + extendedChunkBytes
  }

  get #chunkHeadBytes(): number {
    return this.#headers === 'extended' ? extendedChunkBytes : chunkBytes
  }

  /** A reply without data. */
  done(tag: RequestTag): void {
    if (this.#headers === 'extended') {
      this.emptyChunk(tag)
    } else {
      this.#simple(tag, 0)
    }
  }

  /** The end of a structured reply that has no data, such as a read of no bytes. */
  emptyChunk(tag: RequestTag): void {
    if (this.#headers === 'simple') {
      this.#simple(tag, 0)
      return
    }
    const { view } = this.#room(this.#chunkHeadBytes)
    this.#chunkHead(view, this.#length, tag, Chunk.none, chunkDone, 0)
    this.#added(this.#chunkHeadBytes)
  }

  #simple(tag: RequestTag, error: number): void {
    const { view } = this.#room(simpleReplyBytes)
    const at = this.#length
    view.setUint32(at, simpleReplyMagic)
    view.setUint32(at + 4, error)
    view.setUint32(at + 8, tag.high)
    view.setUint32(at + 12, tag.low)
    this.#added(simpleReplyBytes)
  }

  /** A failure: a number of the protocol, and a text for clients that can hear it. */
  error(tag: RequestTag, error: number, text: string): void {
    if (this.#headers === 'simple') {
      this.#simple(tag, error)
      return
    }
    const message = encoder.encode(text)
    const bytes = this.#chunkHeadBytes + 6 + message.length
    const buffer = this.#room(bytes)
    const { view } = buffer
    const data = this.#chunkHead(view, this.#length, tag, Chunk.error, chunkDone, 6 + message.length)
    view.setUint32(data, error)
    view.setUint16(data + 4, message.length)
    buffer.bytes.set(message, data + 6)
    this.#added(bytes)
  }

  /** A read whose whole range is zeroes; not for simple replies. */
  hole(tag: RequestTag, bytes: number): void {
    const { view } = this.#room(this.#chunkHeadBytes + 12)
    const data = this.#chunkHead(view, this.#length, tag, Chunk.offsetHole, chunkDone, 12)
    setOffset(view, data, tag.offset)
    view.setUint32(data + 8, bytes)
    this.#added(this.#chunkHeadBytes + 12)
  }

  /** What one context says; `last` ends the reply. */
  status(tag: RequestTag, contextId: number, pairs: StatusPairs, last: boolean): void {
    const extended = this.#headers === 'extended'
    const payload = extended ? 8 + pairs.length * 8 : 4 + pairs.length * 4
    const bytes = this.#chunkHeadBytes + payload
    this.flush()
    const buffer = bytes > pooledBytes ? new IoBuffer(bytes) : this.#room(bytes)
    const { view } = buffer
    const own = buffer !== this.#batch
    const type = extended ? Chunk.blockStatusExt : Chunk.blockStatus
    let at = this.#chunkHead(view, own ? 0 : this.#length, tag, type, last ? chunkDone : 0, payload)
    view.setUint32(at, contextId)
    at += 4
    if (extended) {
      view.setUint32(at, pairs.length / 2)
      at += 4
    }
    for (const value of pairs) {
      if (extended) {
        setOffset(view, at, value)
        at += 8
      } else {
        view.setUint32(at, value)
        at += 4
      }
    }
    if (own) {
      this.#send(buffer, 0, bytes)
      this.#pool.drop(buffer)
    } else {
      this.#added(bytes)
    }
  }
}

function setOffset(view: DataView, at: number, value: number): void {
  view.setUint32(at, value / 0x1_0000_0000)
  view.setUint32(at + 4, value)
}
