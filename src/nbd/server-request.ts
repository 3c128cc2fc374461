import { Cmd, CmdFlags, cmdName, maxPayloadBytes, TransmissionFlags } from './protocol.js'
import type { RequestTag } from './reply-writer.js'
import type { ServedExport } from './served-export.js'
import type { ServerNegotiation } from './server-handshake.js'

/** A request, taken apart. Reused for requests that are done at once. */
export class Request implements RequestTag {
  high = 0
  low = 0
  offset = 0
  bytes = 0
  type = 0
  flags = 0

  /** Takes a request's head apart. Beyond 2^53 some digits are lost, but every export has ended long before. */
  parse(view: DataView, at: number, extended: boolean): void {
    this.flags = view.getUint16(at + 4)
    this.type = view.getUint16(at + 6)
    this.high = view.getUint32(at + 8)
    this.low = view.getUint32(at + 12)
    this.offset = view.getUint32(at + 16) * 0x1_0000_0000 + view.getUint32(at + 20)
    this.bytes = extended
      ? view.getUint32(at + 24) * 0x1_0000_0000 + view.getUint32(at + 28)
      : view.getUint32(at + 24)
  }

  assign(other: Request): this {
    this.high = other.high
    this.low = other.low
    this.offset = other.offset
    this.bytes = other.bytes
    this.type = other.type
    this.flags = other.flags
    return this
  }
}

/** Why a request fails: the protocol's error number, and words for clients that take them. */
export interface Refusal {
  readonly error: number
  readonly text: string
}

/** Why a request cannot be carried out; undefined: it can. */
export function refusalOf(
  { type, flags, offset, bytes }: Request,
  headers: ServerNegotiation['headers'],
  served: ServedExport,
): Refusal | undefined {
  let valid = CmdFlags.fua as number
  let changes = false
  switch (type) {
    case Cmd.read:
      valid |= headers === 'simple' ? 0 : CmdFlags.df
      break
    case Cmd.write:
      valid |= headers === 'extended' ? CmdFlags.payloadLen : 0
      changes = true
      break
    case Cmd.trim:
      changes = true
      break
    case Cmd.writeZeroes:
      valid |= CmdFlags.noHole | CmdFlags.fastZero
      changes = true
      break
    case Cmd.blockStatus:
      valid |= CmdFlags.reqOne
      break
    case Cmd.flush:
    case Cmd.cache:
      break
    default:
      return { error: 22, text: `invalid request type (${type}) received` }
  }
  if ((type === Cmd.read || type === Cmd.cache) && bytes > maxPayloadBytes) {
    return { error: 22, text: `len (${bytes}) is larger than max len (${maxPayloadBytes})` }
  }
  if (changes && (served.flags & TransmissionFlags.readOnly) !== 0) {
    return { error: 1, text: 'Export is read-only' }
  }
  const { size } = served
  if (offset > size || bytes > size - offset) {
    return {
      error: type === Cmd.write || type === Cmd.writeZeroes ? 28 : 22,
      text: `operation past EOF; From: ${offset}, Len: ${bytes}, Size: ${size}`,
    }
  }
  if ((flags & ~valid) !== 0) {
    return {
      error: 22,
      text: `unsupported flags for command ${cmdName(type)} (got 0x${flags.toString(16)})`,
    }
  }
  return undefined
}
