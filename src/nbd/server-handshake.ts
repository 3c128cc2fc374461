import { readU16BE, readU32BE } from '../bytes/index.js'
import { blockError } from '../errors/index.js'
import type { HostSocket, TlsSession } from '../host/index.js'
import { ByteBuilder } from './byte-builder.js'
import {
  HandshakeFlags,
  Info,
  initMagic,
  maxPayloadBytes,
  maxStringBytes,
  Opt,
  optName,
  optReplyMagic,
  optsMagic,
  Rep,
  TransmissionFlags,
} from './protocol.js'
import type { ExportTable, MetaContext, ServedExport } from './served-export.js'
import { SocketReader } from './socket-reader.js'

/** What a client and a server agreed on. */
export interface ServerNegotiation {
  readonly export: ServedExport
  readonly headers: 'simple' | 'structured' | 'extended'
  /** Contexts of block status, in the order of replies. */
  readonly contexts: readonly MetaContext[]
  /** The socket to go on with; another one after TLS. */
  readonly socket: HostSocket
}

/** Longest data of an option that names an export: more than any list of requests or queries needs. */
const maxOptionBytes = 1 << 20
/** Most queries of one option, and most options of one client: what more would be for is nothing good. */
const maxQueries = 4096
const maxOptions = 10_000

const decoder = new TextDecoder()

/** An option's data did not have the right form; the client has been told. */
class OptionRefused extends Error {}

/** A name for messages: not longer than a line. */
function shortName(name: string): string {
  return name.length > 80 ? `${name.slice(0, 80)}...` : name
}

/** Takes an option's data apart. */
class OptionData {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  /** Undefined if there is not as much. */
  take(bytes: number): Uint8Array | undefined {
    if (bytes > this.left) {
      return undefined
    }
    this.#at += bytes
    return this.#bytes.subarray(this.#at - bytes, this.#at)
  }

  u16(): number | undefined {
    const bytes = this.take(2)
    return bytes === undefined ? undefined : readU16BE(bytes, 0)
  }

  u32(): number | undefined {
    const bytes = this.take(4)
    return bytes === undefined ? undefined : readU32BE(bytes, 0)
  }
}

/**
 * The server's half of the fixed newstyle handshake with one client.
 */
export class ServerHandshake {
  readonly #exports: ExportTable
  readonly #tls: TlsSession | undefined
  #reader: SocketReader
  #secure = false
  #headers: ServerNegotiation['headers'] = 'simple'
  #contexts: readonly MetaContext[] = []
  /** The export that the contexts were asked for. */
  #contextsOf: ServedExport | undefined = undefined

  /** @param tls what clients have to set up before anything else; undefined: TLS is not offered */
  constructor(socket: HostSocket, exports: ExportTable, tls?: TlsSession) {
    this.#reader = new SocketReader(socket)
    this.#exports = exports
    this.#tls = tls
  }

  /** The socket that the connection is on now. */
  get socket(): HostSocket {
    return this.#reader.socket
  }

  /** Makes the handshake fail. */
  stop(reason: unknown): void {
    this.#reader.stop(reason)
  }

  /**
   * Undefined: the client has said good-bye.
   * @throws BlockError why the client has to be disconnected
   */
  async run(): Promise<ServerNegotiation | undefined> {
    const own = HandshakeFlags.fixedNewstyle | HandshakeFlags.noZeroes
    await this.#reader.send(new ByteBuilder().magic(initMagic).magic(optsMagic).u16(own))
    const flags = readU32BE(await this.#reader.named(4, 'flags'), 0)
    const unknown = (flags & ~own) >>> 0
    if (unknown !== 0) {
      throw blockError('EINVAL', `Unknown client flags 0x${unknown.toString(16)} received`)
    }
    const fixed = (flags & HandshakeFlags.fixedNewstyle) !== 0
    const noZeroes = (flags & HandshakeFlags.noZeroes) !== 0
    for (let options = 0; options < maxOptions; options++) {
      const head = await this.#reader.named(16, 'opts magic')
      if (readU32BE(head, 0) !== optsMagic[0] || readU32BE(head, 4) !== optsMagic[1]) {
        throw blockError('EINVAL', 'Bad magic received')
      }
      const option = readU32BE(head, 8)
      const bytes = readU32BE(head, 12)
      if (bytes > maxPayloadBytes) {
        throw blockError('EINVAL', `len (${bytes}) is larger than max len (${maxPayloadBytes})`)
      }
      if (this.#tls !== undefined && !this.#secure) {
        if (await this.#beforeTls(this.#tls, option, bytes, fixed)) {
          return undefined
        }
      } else if (option === Opt.exportName) {
        return await this.#exportName(bytes, noZeroes)
      } else if (!fixed) {
        throw blockError('EINVAL', `Unsupported option ${option} (${optName(option)})`)
      } else if (option === Opt.abort) {
        await this.#reader.skip(bytes)
        // A client that says good-bye need not wait for the answer.
        await this.#ack(option).catch(() => undefined)
        return undefined
      } else {
        const chosen = await this.#option(option, bytes)
        if (chosen !== undefined) {
          return this.#negotiation(chosen)
        }
      }
    }
    throw blockError('EINVAL', 'Too many options')
  }

  #negotiation(chosen: ServedExport): ServerNegotiation {
    return {
      export: chosen,
      headers: this.#headers,
      contexts: this.#contextsOf === chosen ? this.#contexts : [],
      socket: this.socket,
    }
  }

  #reply(option: number, type: number, data?: ByteBuilder): Promise<void> {
    const bytes = data?.take() ?? new Uint8Array(0)
    return this.#reader.send(
      new ByteBuilder().magic(optReplyMagic).u32(option).u32(type).u32(bytes.length).bytes(bytes),
    )
  }

  #ack(option: number): Promise<void> {
    return this.#reply(option, Rep.ack)
  }

  #refuse(option: number, type: number, text: string): Promise<void> {
    return this.#reply(option, type, new ByteBuilder().text(text))
  }

  /** Options of a client that has not set up TLS, which this server demands. True: the client leaves. */
  async #beforeTls(tls: TlsSession, option: number, bytes: number, fixed: boolean): Promise<boolean> {
    const text = `Option 0x${option.toString(16)} not permitted before TLS`
    if (!fixed || option === Opt.exportName) {
      throw blockError('EINVAL', fixed ? text : `Unsupported option 0x${option.toString(16)}`)
    }
    await this.#reader.skip(bytes)
    if (option !== Opt.startTls) {
      const sent = this.#refuse(option, Rep.errTlsReqd, text)
      await (option === Opt.abort ? sent.catch(() => undefined) : sent)
      return option === Opt.abort
    }
    if (bytes !== 0) {
      const wrong = `option '${optName(option)}' has unexpected length`
      await this.#refuse(option, Rep.errInvalid, wrong)
      throw blockError('EINVAL', wrong)
    }
    await this.#ack(option)
    this.#reader = new SocketReader(await this.socket.startTls(tls))
    this.#secure = true
    return false
  }

  async #exportName(bytes: number, noZeroes: boolean): Promise<ServerNegotiation> {
    if (bytes > maxStringBytes) {
      throw blockError('EINVAL', 'Bad length received')
    }
    const name = decoder.decode(await this.#reader.named(bytes, 'export name'))
    const chosen = this.#exports.find(name)
    if (chosen === undefined) {
      throw blockError('EINVAL', 'export not found')
    }
    const message = new ByteBuilder().u64(chosen.size).u16(this.#flagsOf(chosen))
    await this.#reader.send(noZeroes ? message : message.zeroes(124))
    return this.#negotiation(chosen)
  }

  #flagsOf(one: ServedExport): number {
    return this.#headers === 'simple' ? one.flags : one.flags | TransmissionFlags.sendDf
  }

  /** An option in the fixed handshake; the export if the client has chosen one. */
  async #option(option: number, bytes: number): Promise<ServedExport | undefined> {
    switch (option) {
      case Opt.info:
      case Opt.go:
      case Opt.listMetaContext:
      case Opt.setMetaContext: {
        if (bytes > maxOptionBytes) {
          await this.#reader.skip(bytes)
          await this.#refuse(option, Rep.errTooBig, `option '${optName(option)}' is too long`)
          return undefined
        }
        const data = new OptionData(await this.#reader.named(bytes, 'option data'))
        try {
          return option === Opt.info || option === Opt.go
            ? await this.#info(option, data)
            : await this.#metaContexts(option, data)
        } catch (error) {
          if (error instanceof OptionRefused) {
            return undefined
          }
          throw error
        }
      }
      case Opt.list:
      case Opt.startTls:
      case Opt.structuredReply:
      case Opt.extendedHeaders:
        await this.#reader.skip(bytes)
        if (bytes !== 0) {
          await this.#refuse(option, Rep.errInvalid, `option '${optName(option)}' has unexpected length`)
        } else {
          await this.#plainOption(option)
        }
        return undefined
      default:
        await this.#reader.skip(bytes)
        await this.#refuse(option, Rep.errUnsup, `Unsupported option ${option} (${optName(option)})`)
        return undefined
    }
  }

  /** Options without data. */
  async #plainOption(option: number): Promise<void> {
    switch (option) {
      case Opt.list:
        for (const { name, description } of this.#exports.list()) {
          const bytes = new TextEncoder().encode(name)
          const data = new ByteBuilder()
            .u32(bytes.length)
            .bytes(bytes)
            .text(description ?? '')
          await this.#reply(option, Rep.server, data)
        }
        await this.#ack(option)
        return
      case Opt.startTls:
        await (this.#tls === undefined
          ? this.#refuse(option, Rep.errPolicy, 'TLS not configured')
          : this.#refuse(option, Rep.errInvalid, 'TLS already enabled'))
        return
      case Opt.structuredReply:
        if (this.#headers !== 'simple') {
          const what = this.#headers === 'structured' ? 'structured reply' : 'extended headers'
          const type = this.#headers === 'structured' ? Rep.errInvalid : Rep.errExtHeaderReqd
          await this.#refuse(option, type, `${what} already negotiated`)
          return
        }
        this.#headers = 'structured'
        await this.#ack(option)
        return
      default:
        if (this.#headers === 'extended') {
          await this.#refuse(option, Rep.errInvalid, 'extended headers already negotiated')
          return
        }
        this.#headers = 'extended'
        await this.#ack(option)
    }
  }

  /** The data of an option is not what it should be. */
  async #malformed(
    option: number,
    text = `Inconsistent lengths in option ${optName(option)}`,
  ): Promise<never> {
    await this.#refuse(option, Rep.errInvalid, text)
    throw new OptionRefused()
  }

  async #name(option: number, data: OptionData): Promise<string> {
    const length = data.u32() ?? (await this.#malformed(option))
    if (length > maxStringBytes) {
      return await this.#malformed(option, `Invalid name length: ${length}`)
    }
    const bytes = data.take(length) ?? (await this.#malformed(option))
    if (bytes.includes(0)) {
      return await this.#malformed(option, `Unexpected embedded NUL in option ${optName(option)}`)
    }
    return decoder.decode(bytes)
  }

  async #find(option: number, name: string): Promise<ServedExport> {
    const found = this.#exports.find(name)
    if (found === undefined) {
      await this.#refuse(option, Rep.errUnknown, `export '${shortName(name)}' not present`)
      throw new OptionRefused()
    }
    return found
  }

  async #info(option: number, data: OptionData): Promise<ServedExport | undefined> {
    const name = await this.#name(option, data)
    const count = data.u16() ?? (await this.#malformed(option))
    let sendName = false
    let keepsToBlocks = false
    for (let i = 0; i < count; i++) {
      const request = data.u16() ?? (await this.#malformed(option))
      sendName ||= request === Info.name
      keepsToBlocks ||= request === Info.blockSize
    }
    if (data.left !== 0) {
      await this.#malformed(option, `option '${optName(option)}' has unexpected length`)
    }
    const found = await this.#find(option, name)
    if (sendName) {
      await this.#reply(option, Rep.info, new ByteBuilder().u16(Info.name).text(name))
    }
    if (found.description !== undefined) {
      await this.#reply(option, Rep.info, new ByteBuilder().u16(Info.description).text(found.description))
    }
    // A client that did not ask may send any request; it is told what it will do anyway.
    const minimum = option === Opt.info || keepsToBlocks ? found.minimumBlock : 1
    const sizes = new ByteBuilder().u16(Info.blockSize).u32(minimum)
    await this.#reply(option, Rep.info, sizes.u32(Math.max(4096, minimum)).u32(found.maximumBlock))
    const basics = new ByteBuilder().u16(Info.export).u64(found.size).u16(this.#flagsOf(found))
    await this.#reply(option, Rep.info, basics)
    if (option === Opt.info && !keepsToBlocks && found.minimumBlock > 1) {
      await this.#refuse(option, Rep.errBlockSizeReqd, 'request NBD_INFO_BLOCK_SIZE to use this export')
      return undefined
    }
    await this.#ack(option)
    return option === Opt.go ? found : undefined
  }

  async #metaContexts(option: number, data: OptionData): Promise<undefined> {
    const list = option === Opt.listMetaContext
    if (!list && this.#headers === 'simple') {
      const text = `request option '${optName(option)}' when structured reply is not negotiated`
      await this.#malformed(option, text)
    }
    if (!list) {
      this.#contexts = []
      this.#contextsOf = undefined
    }
    const found = await this.#find(option, await this.#name(option, data))
    const count = data.u32() ?? (await this.#malformed(option))
    if (count > maxQueries) {
      await this.#malformed(option, `Invalid number of queries: ${count}`)
    }
    const wanted = new Set<MetaContext>(list && count === 0 ? found.contexts : [])
    for (let i = 0; i < count; i++) {
      const length = data.u32() ?? (await this.#malformed(option))
      const query = data.take(length) ?? (await this.#malformed(option))
      if (length <= maxStringBytes) {
        const text = decoder.decode(query)
        for (const context of found.contexts) {
          if (context.name === text || (list && matchesLeaf(context.name, text))) {
            wanted.add(context)
          }
        }
      }
    }
    if (data.left !== 0) {
      await this.#malformed(option)
    }
    const chosen = found.contexts.filter((context) => wanted.has(context))
    for (const { name, id } of chosen) {
      await this.#reply(option, Rep.metaContext, new ByteBuilder().u32(list ? 0 : id).text(name))
    }
    await this.#ack(option)
    if (!list) {
      this.#contexts = chosen
      this.#contextsOf = found
    }
    return undefined
  }
}

/** Whether `query` asks for all contexts of a kind: `base:`, `qemu:` or `qemu:dirty-bitmap:`. */
function matchesLeaf(name: string, query: string): boolean {
  return (query === 'base:' || query === 'qemu:' || query === 'qemu:dirty-bitmap:') && name.startsWith(query)
}
