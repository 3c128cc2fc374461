import { blockError, ioError } from '../errors/index.js'
import type { ClientNegotiation } from './client-handshake.js'
import type { IoBuffer } from './io-buffers.js'
import { Cmd } from './protocol.js'
import type { StatusSink } from './served-export.js'
import { errnoOfWire } from './wire-errors.js'

/** What a client makes of the chunks of a server's replies. Nothing of what they say is believed unlooked-at. */

const decoder = new TextDecoder()

/** A request that waits for its reply. Bytes. */
export interface Pending {
  readonly type: number
  readonly offset: number
  readonly bytes: number
  /** Where a read's data goes. */
  readonly buffer: Uint8Array | undefined
  readonly bufferOffset: number
  readonly status: StatusSink | undefined
  /** Bytes of a read that have come. */
  filled: number
  error: Error | undefined
  resolve(): void
  reject(error: unknown): void
}

/** A 64-bit number. */
export function offsetAt(view: DataView, at: number): number {
  return view.getUint32(at) * 0x1_0000_0000 + view.getUint32(at + 4)
}

/** An error that the server reported; what it says goes no further than diagnostics. */
export function serverError(error: number, message: string): Error {
  const code = errnoOfWire(error)
  const plain = ioError(code)
  return message === ''
    ? plain
    : blockError(code, plain.message, { cause: new Error(`server reported: ${message}`) })
}

/** A part of a read is zeroes. @throws BlockError */
export function takeHole(pending: Pending, offset: number, length: number): void {
  if (offset < pending.offset || length === 0 || offset + length > pending.offset + pending.bytes) {
    throw blockError('EINVAL', 'Protocol error: server sent chunk exceeding requested region')
  }
  const from = pending.bufferOffset + offset - pending.offset
  pending.buffer?.fill(0, from, from + length)
  pending.filled += length
}

/** Extents with lengths of 32 bits. @throws BlockError */
export function takeStatus(
  pending: Pending,
  { headers, contextId }: ClientNegotiation,
  view: DataView,
  at: number,
  bytes: number,
): void {
  if (pending.type !== Cmd.blockStatus || headers === 'extended' || bytes < 12 || (bytes - 4) % 8 !== 0) {
    throw blockError('EINVAL', 'Protocol error: invalid payload for NBD_REPLY_TYPE_BLOCK_STATUS')
  }
  checkContext(view.getUint32(at), contextId, 'NBD_REPLY_TYPE_BLOCK_STATUS')
  if (view.getUint32(at + 4) === 0) {
    throw blockError('EINVAL', 'Protocol error: server sent status chunk with zero length')
  }
  pending.filled = 1
  for (let i = 4; i < bytes; i += 8) {
    const length = view.getUint32(at + i)
    if (length === 0 || pending.status?.add(length, view.getUint32(at + i + 4)) === false) {
      return
    }
  }
}

function checkContext(id: number, contextId: number | undefined, type: string): void {
  if (id !== contextId) {
    const text = `unexpected context id ${id} for ${type}, when negotiated context id is ${contextId}`
    throw blockError('EINVAL', `Protocol error: ${text}`)
  }
}

/** Extents with lengths of 64 bits. @throws BlockError */
export function takeExtendedStatus(
  pending: Pending,
  { headers, contextId }: ClientNegotiation,
  view: DataView,
  at: number,
  bytes: number,
): void {
  const type = 'NBD_REPLY_TYPE_BLOCK_STATUS_EXT'
  if (pending.type !== Cmd.blockStatus || headers !== 'extended' || bytes < 24 || (bytes - 8) % 16 !== 0) {
    throw blockError('EINVAL', `Protocol error: invalid payload for ${type}`)
  }
  checkContext(view.getUint32(at), contextId, type)
  const count = view.getUint32(at + 4)
  if (count !== 0 && count !== (bytes - 8) / 16) {
    throw blockError('EINVAL', `Protocol error: ${count} extents do not fit ${type} of ${bytes} bytes`)
  }
  if (offsetAt(view, at + 8) === 0) {
    throw blockError('EINVAL', 'Protocol error: server sent status chunk with zero length')
  }
  pending.filled = 1
  for (let i = 8; i < bytes; i += 16) {
    const length = offsetAt(view, at + i)
    // The upper half of the flags has no meaning yet.
    if (length === 0 || pending.status?.add(length, view.getUint32(at + i + 12)) === false) {
      return
    }
  }
}

/** The error that a chunk tells. @throws BlockError if it tells none */
export function errorOfChunk({ view, bytes: input }: IoBuffer, at: number, bytes: number): Error {
  if (bytes < 6) {
    throw blockError('EINVAL', 'Protocol error: invalid payload for structured error')
  }
  const error = view.getUint32(at)
  const length = view.getUint16(at + 4)
  if (error === 0) {
    throw blockError('EINVAL', 'Protocol error: server sent structured error chunk with error = 0')
  }
  if (length > bytes - 6) {
    const text = 'server sent structured error chunk with incorrect message size'
    throw blockError('EINVAL', `Protocol error: ${text}`)
  }
  return serverError(error, decoder.decode(input.subarray(at + 6, at + 6 + length)))
}
