import { blockError, ioError } from '../../../errors/index.js'
import { lookupPassword } from '../../../formatkit/crypto/index.js'
import {
  amendLuks,
  type LuksVolume,
  luksAmendOptions,
  luksSectorBytes,
  nodeStorage,
} from '../../../formatkit/luks/index.js'
import {
  type AmendContext,
  type BlockChild,
  type BlockLayer,
  type BlockNode,
  type DriverInfo,
  type DriverState,
  driverInfo,
  nothingToReopen,
  type ReopenPlan,
  type SpecificInfo,
  type TruncateOptions,
  truncateNode,
} from '../../../graph/index.js'
import {
  type BlockLimits,
  ExtentFlags,
  type ExtentSink,
  type IoNode,
  type MapPath,
  ReqFlags,
  type WritePlan,
} from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'

/** The disk is the file from `offset` on, enciphered; sectors count from there. */
class PayloadPath implements MapPath {
  readonly #node: IoNode
  readonly #file: BlockChild
  readonly #volume: LuksVolume
  readonly #offset: number

  constructor(node: IoNode, file: BlockChild, volume: LuksVolume) {
    this.#node = node
    this.#file = file
    this.#volume = volume
    this.#offset = volume.header.payloadOffset
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    out.data(bytes, this.#file.node, this.#offset + offset, ExtentFlags.encoded)
    return undefined
  }

  resolveWrite(offset: number, bytes: number, _flags: number, plan: WritePlan): Wait {
    plan.inPlace(bytes, this.#file.node, this.#offset + offset)
    return undefined
  }

  decode(offset: number, _hostOffset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void {
    this.#cipher().decrypt(offset / luksSectorBytes, buffer, bufferOffset, bytes)
  }

  encode(offset: number, _hostOffset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void {
    this.#cipher().encrypt(offset / luksSectorBytes, buffer, bufferOffset, bytes)
  }

  #cipher() {
    const { cipher } = this.#volume
    if (cipher === undefined) {
      throw ioError('EPERM', { node: this.#node.nodeName, operation: 'access without key' })
    }
    return cipher
  }
}

/** An open LUKS image. */
export class LuksState implements DriverState {
  readonly map: MapPath
  readonly supportedWriteFlags: number
  /** Only there if the file can tell something. */
  readonly info?: () => DriverInfo
  readonly #layer: BlockLayer
  readonly #file: BlockChild
  readonly #volume: LuksVolume
  readonly #keySecret: string | undefined

  constructor(
    layer: BlockLayer,
    node: BlockNode,
    file: BlockChild,
    volume: LuksVolume,
    keySecret: string | undefined,
  ) {
    this.#layer = layer
    this.#file = file
    this.#volume = volume
    this.#keySecret = keySecret
    this.map = new PayloadPath(node, file, volume)
    this.supportedWriteFlags = ReqFlags.fua & file.node.supportedWriteFlags
    if (driverInfo(file.node) !== undefined) {
      this.info = () => driverInfo(this.#file.node) ?? {}
    }
    if (volume.header.payloadOffset > file.node.length) {
      throw blockError('EIO', 'Could not refresh total sector count: Input/output error')
    }
  }

  get length(): number {
    return Math.max(0, this.#file.node.length - this.#volume.header.payloadOffset)
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = luksSectorBytes
  }

  async truncate(length: number, how: TruncateOptions): Promise<void> {
    const { payloadOffset } = this.#volume.header
    if (length > Number.MAX_SAFE_INTEGER - payloadOffset) {
      throw blockError('EFBIG', 'The requested file size is too large')
    }
    if (how.zero) {
      // Zeroes below are no zeroes here.
      throw ioError('ENOTSUP')
    }
    await truncateNode(this.#file.node, length + payloadOffset, how)
  }

  specificInfo(): SpecificInfo {
    return { type: 'luks', data: this.#volume.info() }
  }

  async amend(context: AmendContext): Promise<void> {
    await amendLuks({
      host: this.#layer.host,
      storage: nodeStorage(this.#file.node, 0),
      volume: this.#volume,
      options: luksAmendOptions(context.options, ''),
      force: context.force,
      password: (id) => lookupPassword(this.#layer, id),
      keySecret: this.#keySecret,
    })
  }

  /** Whoever holds the key may read and write: nothing of the driver's own can change. */
  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  close(): Wait {
    this.#volume.dispose()
    return undefined
  }
}
