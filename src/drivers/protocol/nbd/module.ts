import { blockError, errnoError } from '../../../errors/index.js'
import { findTlsCredentials } from '../../../formatkit/tls/index.js'
import {
  type DriverModule,
  type DriverState,
  nothingToReopen,
  type OpenContext,
  type ReopenContext,
  type ReopenPlan,
  type TruncateOptions,
} from '../../../graph/index.js'
import {
  type BlockLimits,
  type DirectPath,
  type ExtentSink,
  type FlushPath,
  type IoNode,
  maxLength,
  type RangeResult,
  ReqFlags,
} from '../../../io/index.js'
import {
  AllocationState,
  Cmd,
  CmdFlags,
  type ExportInfo,
  maxPayloadBytes,
  TransmissionFlags,
} from '../../../nbd/index.js'
import { takeOptions } from '../../../options/index.js'
import { monotonicClock, type Wait } from '../../../sched/index.js'
import { takePlace } from './names.js'
import { nbdOptions } from './options.js'
import { NbdSession } from './session.js'

/** Longest range of a trim or a status request without extended headers: what 31 bits hold. Bytes. */
const maxRangeBytes = 0x7fffffff

class NbdState implements DriverState, DirectPath {
  readonly direct = this
  readonly flushPath: FlushPath
  readonly supportedWriteFlags: number
  readonly supportedZeroFlags: number
  readonly length: number
  readonly #node: IoNode
  readonly #session: NbdSession
  readonly #info: ExportInfo
  readonly #name: string

  constructor(node: IoNode, session: NbdSession, name: string) {
    const { info } = session.negotiation
    this.#node = node
    this.#session = session
    this.#info = info
    this.#name = name
    this.length = info.size
    const fua = this.#can(TransmissionFlags.sendFua) ? ReqFlags.fua : 0
    this.supportedWriteFlags = fua
    this.supportedZeroFlags = this.#can(TransmissionFlags.sendWriteZeroes)
      ? fua | ReqFlags.mayUnmap | (this.#can(TransmissionFlags.sendFastZero) ? ReqFlags.noFallback : 0)
      : 0
    this.flushPath = { flushToDisk: () => this.#flush() }
  }

  /** Ranges without data may be of any length. */
  get #extended(): boolean {
    return this.#session.negotiation.headers === 'extended'
  }

  #can(flag: number): boolean {
    return (this.#info.flags & flag) !== 0
  }

  refreshLimits(limits: BlockLimits): void {
    const { minimumBlock, preferredBlock, maximumBlock, size } = this.#info
    const minimum =
      minimumBlock !== 0
        ? minimumBlock
        : size % 512 !== 0 || this.#session.negotiation.contextId !== undefined
          ? 1
          : 512
    const maximum = Math.min(maxPayloadBytes, maximumBlock === 0 ? maxPayloadBytes : maximumBlock)
    limits.requestAlignment = minimum
    const longest = this.#extended ? maxLength : maxRangeBytes
    limits.maxDiscard = longest - (longest % minimum)
    limits.maxZero = this.#extended ? limits.maxDiscard : maximum
    limits.maxTransfer = maximum
    limits.optTransfer = Math.max(limits.optTransfer, preferredBlock > minimum ? preferredBlock : 0)
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const inside = Math.min(bytes, this.#info.size - offset)
    if (inside < bytes) {
      // The node is rounded up to whole sectors.
      buffer.fill(0, bufferOffset + Math.max(inside, 0), bufferOffset + bytes)
      if (inside <= 0) {
        return undefined
      }
    }
    return this.#session.run((connection) => connection.read(offset, inside, buffer, bufferOffset))
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const fua = (flags & ReqFlags.fua) !== 0
    return this.#session.run((connection) => connection.write(offset, bytes, buffer, bufferOffset, fua))
  }

  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    if (!this.#can(TransmissionFlags.sendWriteZeroes)) {
      return undefined
    }
    const wire =
      ((flags & ReqFlags.fua) !== 0 ? CmdFlags.fua : 0) |
      ((flags & ReqFlags.mayUnmap) === 0 ? CmdFlags.noHole : 0) |
      ((flags & ReqFlags.noFallback) !== 0 ? CmdFlags.fastZero : 0)
    return this.#range(Cmd.writeZeroes, wire, offset, bytes, out)
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    if (!this.#can(TransmissionFlags.sendTrim) || bytes === 0) {
      out.bytes = bytes
      return undefined
    }
    return this.#range(Cmd.trim, 0, offset, bytes, out)
  }

  async #range(type: number, flags: number, offset: number, bytes: number, out: RangeResult): Promise<void> {
    await this.#session.run((connection) => connection.command(type, flags, offset, bytes))
    out.bytes = bytes
  }

  #flush(): Wait {
    return this.#can(TransmissionFlags.sendFlush)
      ? this.#session.run((connection) => connection.command(Cmd.flush, 0, 0, 0))
      : undefined
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    if (offset >= this.#info.size) {
      out.zero(bytes, this.#node, offset)
      return undefined
    }
    if (this.#session.negotiation.contextId === undefined) {
      out.data(bytes, this.#node, offset, 0)
      return undefined
    }
    return this.#status(
      offset,
      Math.min(bytes, this.#info.size - offset, this.#extended ? bytes : maxRangeBytes),
      out,
    )
  }

  async #status(offset: number, bytes: number, out: ExtentSink): Promise<void> {
    let length = 0
    let flags = 0
    await this.#session.run(async (connection) => {
      length = 0
      await connection.status(offset, bytes, {
        add: (one, state) => {
          length = Math.min(one, bytes)
          flags = state
          return false
        },
      })
      if (length === 0) {
        throw blockError('EIO', 'Server did not reply with any status extents')
      }
    })
    const { minimumBlock } = this.#info
    if (minimumBlock > 1 && length % minimumBlock !== 0) {
      // A server that does not keep to its own blocks: what is no whole block counts as data.
      length = Math.max(minimumBlock, length - (length % minimumBlock))
      flags = length > minimumBlock ? flags : 0
    }
    if ((flags & AllocationState.zero) !== 0) {
      out.zero(length, this.#node, offset)
    } else if ((flags & AllocationState.hole) !== 0) {
      out.unallocated(length)
    } else {
      out.data(length, this.#node, offset, 0)
    }
  }

  truncate(length: number, { exact }: TruncateOptions): Wait {
    if (exact && length !== this.length) {
      throw blockError('ENOTSUP', 'Cannot resize NBD nodes')
    }
    if (length > this.length) {
      throw blockError('EINVAL', 'Cannot grow NBD nodes')
    }
    return undefined
  }

  prepareReopen({ readOnly }: ReopenContext): ReopenPlan {
    if (!readOnly && this.#can(TransmissionFlags.readOnly)) {
      throw blockError('EACCES', "Can't reopen read-only NBD mount as read/write")
    }
    return nothingToReopen
  }

  exactFilename(): string | undefined {
    return this.#name === '' ? undefined : this.#name
  }

  async close(): Promise<void> {
    await this.#session.close()
  }
}

async function open({ node, options, host, flags, layer }: OpenContext): Promise<DriverState> {
  const given = takeOptions(options, nbdOptions)
  const place = takePlace(options, given)
  const exportName = given.export ?? ''
  const { sockets } = host
  if (new TextEncoder().encode(exportName).length > 4096) {
    throw blockError('EINVAL', 'export name too long to send to server')
  }
  if (sockets === undefined) {
    throw blockError('ENOTSUP', 'Sockets are not available here')
  }
  const { 'tls-creds': credentials, 'tls-hostname': hostname } = given
  const context = given['x-dirty-bitmap'] ?? 'base:allocation'
  const peer = hostname ?? (place.address.type === 'inet' ? place.address.host : undefined)
  const session = await NbdSession.open({
    sockets,
    clock: host.clock ?? monotonicClock,
    address: place.address,
    exportName,
    context,
    tls:
      credentials === undefined
        ? undefined
        : findTlsCredentials(layer, credentials, 'client').session({ hostname: peer }),
    reconnectDelay: given['reconnect-delay'] ?? 0,
    openTimeout: given['open-timeout'] ?? 0,
  })
  try {
    const { info, contextId } = session.negotiation
    if (!Number.isSafeInteger(info.size)) {
      throw blockError('EFBIG', 'Export is too large')
    }
    if (given['x-dirty-bitmap'] !== undefined && contextId === undefined) {
      throw blockError('EINVAL', 'Could not open image: Invalid argument', {
        cause: new Error(`requested x-dirty-bitmap ${context} not found`),
      })
    }
    if (info.minimumBlock > 1 && info.size % info.minimumBlock !== 0) {
      const text = `size ${info.size} is not multiple of minimum block size ${info.minimumBlock}`
      throw blockError('EINVAL', `export ${text}`)
    }
    if (flags.write && (info.flags & TransmissionFlags.readOnly) !== 0) {
      if (!['on', true].includes(node.options.get('auto-read-only') as string | boolean)) {
        throw errnoError('EACCES', 'Could not open image', { cause: new Error('NBD export is read-only') })
      }
      node.readOnly = true
      node.flags.write = false
    }
    return new NbdState(node, session, place.nameOf(exportName))
  } catch (error) {
    await session.close()
    throw error
  }
}

export const nbdModule: DriverModule = { open }
