import { readU16BE, readU32BE, readU64BE } from '../bytes/index.js'
import { type BlockError, blockError } from '../errors/index.js'
import type { HostSocket, TlsSession } from '../host/index.js'
import { ByteBuilder } from './byte-builder.js'
import {
  HandshakeFlags,
  Info,
  initMagic,
  isErrorReply,
  maxPayloadBytes,
  maxStringBytes,
  Opt,
  oldstyleMagic,
  optName,
  optReplyMagic,
  optsMagic,
  Rep,
  repName,
  TransmissionFlags,
} from './protocol.js'
import { SocketReader } from './socket-reader.js'

/** An export as a server describes it. Bytes. */
export interface ExportInfo {
  readonly name: string
  description?: string
  size: number
  /** `TransmissionFlags` */
  flags: number
  minimumBlock: number
  preferredBlock: number
  maximumBlock: number
}

/** Simple replies, structured ones, or requests and replies with 64-bit lengths. */
export type Headers = 'simple' | 'structured' | 'extended'

/** What {@link connectExport} has agreed with a server. */
export interface ClientNegotiation {
  readonly socket: HostSocket
  readonly info: ExportInfo
  /** Form of requests and replies. */
  readonly headers: Headers
  /** Number of the context for block status; undefined: there is none. */
  readonly contextId: number | undefined
}

export interface ConnectExportOptions {
  readonly name: string
  /** Context to ask for, such as `base:allocation`. */
  readonly context: string
  readonly tls?: TlsSession | undefined
  /** Agree on nothing but simple replies: what the kernel's client understands. Default false. */
  readonly simple?: boolean | undefined
}

/** An export in a server's list, with the contexts it offers. */
export interface ListedExport extends ExportInfo {
  contexts: string[]
}

/** Exports that a list is read of: a server has no end of them otherwise. */
const maxListed = 65536

const decoder = new TextDecoder()

interface OptionReply {
  readonly type: number
  readonly data: Uint8Array
}

/** Error replies that name the option, by type. */
const refusals = new Map<number, (what: string) => string>([
  [Rep.errPolicy, (what) => `Denied by server for option ${what}`],
  [Rep.errInvalid, (what) => `Invalid parameters for option ${what}`],
  [Rep.errPlatform, (what) => `Server lacks support for option ${what}`],
  [Rep.errTlsReqd, (what) => `TLS negotiation required before option ${what}`],
  [Rep.errUnknown, () => 'Requested export not available'],
  [Rep.errShutdown, (what) => `Server shutting down before option ${what}`],
  [Rep.errBlockSizeReqd, (what) => `Server requires INFO_BLOCK_SIZE for option ${what}`],
])

/** How messages name an option. */
function numbered(option: number): string {
  return `${option} (${optName(option)})`
}

/** The client's half of the handshake. */
class ClientHandshake {
  #reader: SocketReader
  #fixed = false
  #noZeroes = false
  headers: Headers = 'simple'

  constructor(socket: HostSocket) {
    this.#reader = new SocketReader(socket)
  }

  get socket(): HostSocket {
    return this.#reader.socket
  }

  get isFixed(): boolean {
    return this.#fixed
  }

  /**
   * Greets the server and sets up TLS and the best form of replies. A server of the old style says at once what
   * it has.
   */
  async begin(tls: TlsSession | undefined, options = true): Promise<ExportInfo | undefined> {
    const head = await this.#reader.named(16, 'initial magic')
    if (readU32BE(head, 0) !== initMagic[0] || readU32BE(head, 4) !== initMagic[1]) {
      throw blockError('EINVAL', `Bad initial magic received: ${hex64(head, 0)}`)
    }
    if (readU32BE(head, 8) === oldstyleMagic[0] && readU32BE(head, 12) === oldstyleMagic[1]) {
      if (tls !== undefined) {
        throw blockError('EINVAL', 'Server does not support STARTTLS')
      }
      return await this.#oldstyle()
    }
    if (readU32BE(head, 8) !== optsMagic[0] || readU32BE(head, 12) !== optsMagic[1]) {
      throw blockError('EINVAL', `Bad server magic received: ${hex64(head, 8)}`)
    }
    const flags = readU16BE(await this.#reader.named(2, 'server flags'), 0)
    this.#fixed = (flags & HandshakeFlags.fixedNewstyle) !== 0
    this.#noZeroes = (flags & HandshakeFlags.noZeroes) !== 0
    await this.#reader.send(
      new ByteBuilder().u32(flags & (HandshakeFlags.fixedNewstyle | HandshakeFlags.noZeroes)),
    )
    if (tls !== undefined) {
      if (!this.#fixed) {
        throw blockError('EINVAL', 'Server does not support STARTTLS')
      }
      if (!(await this.#simpleOption(Opt.startTls))) {
        throw blockError('EINVAL', "Server don't support STARTTLS option")
      }
      this.#reader = new SocketReader(await this.socket.startTls(tls))
    }
    if (this.#fixed && options) {
      if (await this.#simpleOption(Opt.extendedHeaders)) {
        this.headers = 'extended'
      } else if (await this.#simpleOption(Opt.structuredReply)) {
        this.headers = 'structured'
      }
    }
    return undefined
  }

  async #oldstyle(): Promise<ExportInfo> {
    const rest = await this.#reader.named(136, 'export length')
    const flags = readU32BE(rest, 8)
    if (flags > 0xffff) {
      throw blockError('EINVAL', `Unexpected export flags ${flags.toString(16)}`)
    }
    return plainInfo('', readU64BE(rest, 0), flags)
  }

  async option(option: number, data?: ByteBuilder): Promise<void> {
    const bytes = data?.take() ?? new Uint8Array(0)
    await this.#reader.send(new ByteBuilder().magic(optsMagic).u32(option).u32(bytes.length).bytes(bytes))
  }

  /**
   * One reply to `option`; undefined: the server does not know the option, or with `lenient` does not want it for any reason.
   *
   * @throws BlockError for other refusals
   */
  async reply(option: number, lenient = false): Promise<OptionReply | undefined> {
    const head = await this.#reader.named(20, 'option reply')
    if (readU32BE(head, 0) !== optReplyMagic[0] || readU32BE(head, 4) !== optReplyMagic[1]) {
      throw blockError('EINVAL', 'Unexpected option reply magic')
    }
    const answered = readU32BE(head, 8)
    const type = readU32BE(head, 12)
    const bytes = readU32BE(head, 16)
    if (answered !== option) {
      throw blockError('EINVAL', `Unexpected option type ${numbered(answered)}, expected ${numbered(option)}`)
    }
    if (!isErrorReply(type)) {
      if (bytes > maxPayloadBytes) {
        throw blockError('EINVAL', `incorrect option length ${bytes}`)
      }
      return { type, data: await this.#reader.named(bytes, 'option data') }
    }
    if (bytes > maxStringBytes) {
      throw blockError('EINVAL', `server error ${type} (${repName(type)}) message is too long`)
    }
    const message = decoder.decode(
      await this.#reader.named(bytes, `option error ${type} (${repName(type)}) message`),
    )
    if (type === Rep.errUnsup || lenient) {
      return undefined
    }
    throw refusal(option, type, message)
  }

  /** An option that is answered by ACK; false: the server does not know it. */
  async #simpleOption(option: number): Promise<boolean> {
    await this.option(option)
    let reply: OptionReply | undefined
    try {
      // Few servers know extended headers; there is always something else.
      reply = await this.reply(option, option === Opt.extendedHeaders)
    } catch (error) {
      if (option === Opt.startTls) {
        throw error
      }
      const { code } = error as BlockError
      if (code === 'ENOTSUP') {
        return false
      }
      throw error
    }
    if (reply === undefined) {
      return false
    }
    if (reply.type !== Rep.ack) {
      const got = `${reply.type} (${repName(reply.type)})`
      throw blockError('EINVAL', `Server answered option ${numbered(option)} with unexpected reply ${got}`)
    }
    if (reply.data.length !== 0) {
      const length = `response length is ${reply.data.length} (it should be zero)`
      throw blockError('EINVAL', `Option ${option} ('${optName(option)}') ${length}`)
    }
    return true
  }

  /** Says good-bye; the answer is of no interest. */
  async abort(): Promise<void> {
    await this.option(Opt.abort).catch(() => undefined)
  }

  /** Asks for contexts; names and numbers of those there are. */
  async contexts(option: number, name: string, query?: string): Promise<Map<string, number> | undefined> {
    const bytes = new TextEncoder().encode(name)
    const data = new ByteBuilder().u32(bytes.length).bytes(bytes)
    if (query === undefined) {
      data.u32(0)
    } else {
      const text = new TextEncoder().encode(query)
      data.u32(1).u32(text.length).bytes(text)
    }
    await this.option(option, data)
    const found = new Map<string, number>()
    while (found.size < maxListed) {
      const reply = await this.reply(option)
      if (reply === undefined) {
        return undefined
      }
      if (reply.type === Rep.ack) {
        return found
      }
      if (reply.type !== Rep.metaContext || reply.data.length <= 4) {
        const length = `server answered with unexpected length ${reply.data.length}`
        throw blockError('EINVAL', `Failed to negotiate meta context, ${length}`)
      }
      found.set(decoder.decode(reply.data.subarray(4)), readU32BE(reply.data, 0))
    }
    throw blockError('EINVAL', 'Server answered with too many contexts')
  }

  /** The context called `query`, for the transmission phase. */
  async context(name: string, query: string): Promise<number | undefined> {
    const found = await this.contexts(Opt.setMetaContext, name, query)
    if (found === undefined || found.size === 0) {
      return undefined
    }
    if (found.size > 1) {
      throw blockError('EINVAL', 'Server answered with more than one context')
    }
    const id = found.get(query)
    if (id === undefined) {
      const [other] = found.keys()
      const answer = `server answered with different context '${other}'`
      throw blockError('EINVAL', `Failed to negotiate meta context '${query}', ${answer}`)
    }
    return id
  }

  /** Asks about an export, or for it with {@link Opt.go}; undefined: the server does not know the option. */
  async info(option: number, name: string): Promise<ExportInfo | undefined> {
    const bytes = new TextEncoder().encode(name)
    await this.option(option, new ByteBuilder().u32(bytes.length).bytes(bytes).u16(1).u16(Info.blockSize))
    const info = plainInfo(name, 0, 0)
    let complete = false
    for (let replies = 0; replies < maxListed; replies++) {
      const reply = await this.reply(option)
      if (reply === undefined) {
        return undefined
      }
      const { type, data } = reply
      if (type === Rep.ack) {
        if (!complete) {
          throw blockError('EINVAL', 'broken server omitted NBD_INFO_EXPORT')
        }
        return info
      }
      if (type !== Rep.info) {
        const text = `unexpected reply type ${type} (${repName(type)}), expected ${Rep.info}`
        throw blockError('EINVAL', text)
      }
      if (data.length < 2) {
        throw blockError('EINVAL', `NBD_REP_INFO length ${data.length} is too short`)
      }
      complete = takeInfo(info, data) || complete
    }
    throw blockError('EINVAL', 'Server answered with too much information')
  }

  /** Names and descriptions of the exports; undefined: the server lists none. */
  async list(): Promise<{ name: string; description: string }[] | undefined> {
    await this.option(Opt.list)
    const exports: { name: string; description: string }[] = []
    while (exports.length < maxListed) {
      const reply = await this.reply(Opt.list)
      if (reply === undefined) {
        return undefined
      }
      const { type, data } = reply
      if (type === Rep.ack) {
        if (data.length !== 0) {
          throw blockError('EINVAL', 'length too long for option end')
        }
        return exports
      }
      if (type !== Rep.server || data.length < 4) {
        throw blockError('EINVAL', `Unexpected reply type ${type} (${repName(type)}), expected ${Rep.server}`)
      }
      const length = readU32BE(data, 0)
      if (length > data.length - 4 || length > maxStringBytes) {
        throw blockError('EINVAL', 'incorrect option name length')
      }
      exports.push({
        name: decoder.decode(data.subarray(4, 4 + length)),
        description: decoder.decode(data.subarray(4 + length)),
      })
    }
    throw blockError('EINVAL', 'Server has too many exports')
  }

  /** Chooses an export the old way: there is no answer if the server does not have it. */
  async exportName(name: string): Promise<ExportInfo> {
    await this.option(Opt.exportName, new ByteBuilder().text(name))
    const answer = await this.#reader.named(10, 'export length')
    const info = plainInfo(name, readU64BE(answer, 0), readU16BE(answer, 8))
    if (!this.#noZeroes) {
      await this.#reader.named(124, 'reserved block')
    }
    return info
  }
}

function hex64(bytes: Uint8Array, at: number): string {
  const text =
    readU32BE(bytes, at).toString(16) +
    readU32BE(bytes, at + 4)
      .toString(16)
      .padStart(8, '0')
  return `0x${text.replace(/^0+(?=.)/, '')}`
}

function plainInfo(name: string, size: number, flags: number): ExportInfo {
  return { name, size, flags, minimumBlock: 0, preferredBlock: 0, maximumBlock: 0 }
}

function refusal(option: number, type: number, message: string): BlockError {
  const text =
    refusals.get(type)?.(numbered(option)) ?? `Unknown error code when asking for option ${numbered(option)}`
  const hints = [
    ...(type === Rep.errTlsReqd ? ['Did you forget a valid tls-creds?'] : []),
    ...(message === '' ? [] : [`server reported: ${message}`]),
  ]
  return blockError('EINVAL', text, hints.length === 0 ? undefined : { hint: hints.join('\n') })
}

/** Notes what an information reply says. True: it was the one that every export has. */
function takeInfo(info: ExportInfo, data: Uint8Array): boolean {
  const type = readU16BE(data, 0)
  switch (type) {
    case Info.export:
      if (data.length !== 12) {
        throw blockError('EINVAL', `remaining export info len ${data.length - 2} is unexpected size`)
      }
      info.size = readU64BE(data, 2)
      info.flags = readU16BE(data, 10)
      if ((info.flags & TransmissionFlags.hasFlags) === 0) {
        throw blockError('EINVAL', 'broken server did not set NBD_FLAG_HAS_FLAGS')
      }
      return true
    case Info.blockSize: {
      if (data.length !== 14) {
        throw blockError('EINVAL', `remaining export info len ${data.length - 2} is unexpected size`)
      }
      const minimum = readU32BE(data, 2)
      const preferred = readU32BE(data, 6)
      if (minimum === 0 || (minimum & (minimum - 1)) !== 0) {
        throw blockError('EINVAL', `server advertised minimum block size ${minimum} is not a power of two`)
      }
      if (preferred === 0 || (preferred & (preferred - 1)) !== 0 || preferred < minimum) {
        throw blockError('EINVAL', `server advertised preferred block size ${preferred} is not valid`)
      }
      const maximum = readU32BE(data, 10)
      if (maximum < minimum) {
        throw blockError('EINVAL', `server advertised maximum block size ${maximum} is not valid`)
      }
      info.minimumBlock = minimum
      info.preferredBlock = preferred
      // A server may say less than whole blocks.
      info.maximumBlock = maximum - (maximum % minimum)
      return false
    }
    case Info.description:
      info.description = decoder.decode(data.subarray(2))
      return false
    default:
      return false
  }
}

/**
 * Agrees with a server on one export and how to talk about it. The socket belongs to the result, or is
 * destroyed.
 *
 * @throws BlockError with QEMU's text; its hint is what the server had to say
 */
export async function connectExport(
  socket: HostSocket,
  { name, context, tls, simple = false }: ConnectExportOptions,
): Promise<ClientNegotiation> {
  const handshake = new ClientHandshake(socket)
  try {
    const old = await handshake.begin(tls, !simple)
    if (old !== undefined) {
      if (name !== '') {
        throw blockError('EINVAL', 'Server does not support non-empty export names')
      }
      return { socket: handshake.socket, info: old, headers: 'simple', contextId: undefined }
    }
    const contextId = handshake.headers === 'simple' ? undefined : await handshake.context(name, context)
    let info = handshake.isFixed ? await handshake.info(Opt.go, name) : undefined
    if (info === undefined) {
      if (handshake.isFixed) {
        // An unknown name would end the connection without a word.
        const listed = await handshake.list()
        if (listed !== undefined && !listed.some((one) => one.name === name)) {
          throw blockError('EINVAL', `No export with name '${name}' available`)
        }
      }
      info = await handshake.exportName(name)
    }
    return { socket: handshake.socket, info, headers: handshake.headers, contextId }
  } catch (error) {
    await handshake.abort()
    handshake.socket.destroy()
    throw error
  }
}

/**
 * What a server offers. The socket is destroyed.
 *
 * @throws BlockError with QEMU's text
 */
export async function listExports(socket: HostSocket, tls?: TlsSession): Promise<ListedExport[]> {
  const handshake = new ClientHandshake(socket)
  try {
    const old = await handshake.begin(tls)
    if (old !== undefined) {
      return [{ ...old, contexts: [] }]
    }
    if (!handshake.isFixed) {
      throw blockError('EINVAL', 'Server does not support export lists')
    }
    const listed = await handshake.list()
    if (listed === undefined) {
      throw blockError('EINVAL', 'Server does not support export lists')
    }
    const exports: ListedExport[] = []
    for (const { name, description } of listed) {
      const info = (await handshake.info(Opt.info, name)) ?? plainInfo(name, 0, 0)
      const found =
        handshake.headers === 'simple' ? undefined : await handshake.contexts(Opt.listMetaContext, name)
      exports.push({ ...info, description, contexts: [...(found?.keys() ?? [])] })
    }
    await handshake.abort()
    return exports
  } finally {
    handshake.socket.destroy()
  }
}
