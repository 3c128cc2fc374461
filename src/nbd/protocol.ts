/**
 * The numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md). Names are the document's
 * without `NBD_`. 64-bit magics are given as two 32-bit halves.
 */

/** First bytes of every server: `NBDMAGIC`. */
export const initMagic = [0x4e42444d, 0x41474943] as const
/** Second: `IHAVEOPT`, also in front of each option of the client. */
export const optsMagic = [0x49484156, 0x454f5054] as const
/** In its place in the oldstyle handshake. */
export const oldstyleMagic = [0x00004202, 0x81861253] as const
/** In front of each reply to an option. */
export const optReplyMagic = [0x0003e889, 0x045565a9] as const

export const requestMagic = 0x25609513
export const extendedRequestMagic = 0x21e41c71
export const simpleReplyMagic = 0x67446698
export const structuredReplyMagic = 0x668e33ef
export const extendedReplyMagic = 0x6e8a278c

/** Bytes of a request, of a reply, and of the head of a reply chunk. */
export const requestBytes = 28
export const extendedRequestBytes = 32
export const simpleReplyBytes = 16
export const chunkBytes = 20
export const extendedChunkBytes = 32

/** Longest string of the protocol (names, queries, messages), bytes. */
export const maxStringBytes = 4096
/** Longest payload of a request or of the data of a reply, bytes. */
export const maxPayloadBytes = 32 << 20
/** Port of NBD over TCP. */
export const defaultPort = 10809

/** Flags of the server and of the client in the handshake. */
export const HandshakeFlags = { fixedNewstyle: 1, noZeroes: 2 } as const

/** What an export can do. */
export const TransmissionFlags = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendResize: 1 << 9,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
  blockStatusPayload: 1 << 12,
} as const

export const Opt = {
  exportName: 1,
  abort: 2,
  list: 3,
  peekExport: 4,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const

const optNames = [
  '',
  'export name',
  'abort',
  'list',
  'peek export',
  'starttls',
  'info',
  'go',
  'structured reply',
  'list meta context',
  'set meta context',
  'extended headers',
]

/** How messages call an option. */
export function optName(option: number): string {
  return optNames[option] || '<unknown>'
}

const errorBit = 0x8000_0000

/** Types of replies to options. */
export const Rep = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsup: errorBit + 1,
  errPolicy: errorBit + 2,
  errInvalid: errorBit + 3,
  errPlatform: errorBit + 4,
  errTlsReqd: errorBit + 5,
  errUnknown: errorBit + 6,
  errShutdown: errorBit + 7,
  errBlockSizeReqd: errorBit + 8,
  errTooBig: errorBit + 9,
  errExtHeaderReqd: errorBit + 10,
} as const

const repNames = new Map<number, string>([
  [Rep.ack, 'ack'],
  [Rep.server, 'server'],
  [Rep.info, 'info'],
  [Rep.metaContext, 'meta context'],
  [Rep.errUnsup, 'unsupported'],
  [Rep.errPolicy, 'denied by policy'],
  [Rep.errInvalid, 'invalid'],
  [Rep.errPlatform, 'platform lacks support'],
  [Rep.errTlsReqd, 'TLS required'],
  [Rep.errUnknown, 'export unknown'],
  [Rep.errShutdown, 'server shutting down'],
  [Rep.errBlockSizeReqd, 'block size required'],
  [Rep.errTooBig, 'option payload too big'],
  [Rep.errExtHeaderReqd, 'extended headers required'],
])

/** How messages call a type of reply. */
export function repName(type: number): string {
  return repNames.get(type) ?? '<unknown>'
}

/** Whether a type of option reply reports an error. */
export function isErrorReply(type: number): boolean {
  return type >= errorBit
}

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const

export const Cmd = {
  read: 0,
  write: 1,
  disc: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const

const cmdNames = ['read', 'write', 'disconnect', 'flush', 'discard', 'cache', 'write zeroes', 'block status']

/** How messages call a command. */
export function cmdName(type: number): string {
  return cmdNames[type] ?? '<unknown>'
}

export const CmdFlags = {
  fua: 1 << 0,
  noHole: 1 << 1,
  df: 1 << 2,
  reqOne: 1 << 3,
  fastZero: 1 << 4,
  payloadLen: 1 << 5,
} as const

/** Types of reply chunks. */
export const Chunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExt: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const

const chunkNames = new Map<number, string>([
  [Chunk.none, 'none'],
  [Chunk.offsetData, 'data'],
  [Chunk.offsetHole, 'hole'],
  [Chunk.blockStatus, 'block status (32-bit)'],
  [Chunk.blockStatusExt, 'block status (64-bit)'],
  [Chunk.error, 'generic error'],
  [Chunk.errorOffset, 'error at offset'],
])

/** How messages call a type of reply chunk. */
export function chunkName(type: number): string {
  return chunkNames.get(type) ?? ((type & 0x8000) !== 0 ? '<unknown error>' : '<unknown>')
}

/** Flag of the last chunk of a reply. */
export const chunkDone = 1

/** Flags of `base:allocation`. */
export const AllocationState = { hole: 1, zero: 2 } as const

/** Numbers that this server gives to its contexts; bitmaps follow the last one. */
export const MetaId = { baseAllocation: 0, allocationDepth: 1, dirtyBitmap: 2 } as const
