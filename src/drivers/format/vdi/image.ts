import { blockError } from '../../../errors/index.js'
import { runAlone } from '../../../formatkit/index.js'
import {
  type BlockNode,
  type CheckFix,
  type CheckResult,
  type DriverInfo,
  type DriverState,
  type FormatDetails,
  hasZeroInit,
  nothingToReopen,
  type ReopenPlan,
  type TruncateOptions,
  type VdiDetails,
} from '../../../graph/index.js'
import type { BlockLimits, FlushPath, MapPath } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { checkImage } from './check.js'
import { ImageType, sectorBytes } from './header.js'
import { type VdiParts, VdiPath } from './path.js'
import { grow } from './resize.js'

/** An open VDI image. */
export class VdiImage implements DriverState {
  length: number
  readonly map: MapPath
  readonly flushPath: FlushPath
  readonly clusterSize: number
  readonly #node: BlockNode
  readonly #parts: VdiParts
  readonly #path: VdiPath

  constructor(node: BlockNode, length: number, parts: VdiParts) {
    this.length = length
    this.clusterSize = parts.header.blockSize
    this.#node = node
    this.#parts = parts
    this.#path = new VdiPath(node, parts)
    this.map = this.#path
    this.flushPath = this.#path
  }

  get hasZeroInit(): boolean {
    return this.#parts.header.type !== ImageType.static || hasZeroInit(this.#parts.file.node)
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = Math.max(limits.requestAlignment, sectorBytes)
  }

  info(): DriverInfo {
    return { clusterSize: this.clusterSize }
  }

  details(): FormatDetails {
    const { header } = this.#parts
    const data: VdiDetails = {
      kind: header.type === ImageType.static ? 'static' : 'dynamic',
      uuid: header.uuid,
      'snapshot-uuid': header.snapshotUuid,
      'block-size': header.blockSize,
      blocks: header.blocks,
      'allocated-blocks': header.allocated,
      ...(header.description === '' ? {} : { description: header.description }),
    }
    return { type: 'vdi', data }
  }

  async check(fix: CheckFix): Promise<CheckResult> {
    return fix.leaks || fix.errors
      ? await runAlone(this.#node, this.#path.mutex, () => checkImage(this.#parts, fix))
      : await checkImage(this.#parts, fix)
  }

  /** Grows the disk; QEMU cannot. @throws BlockError ENOTSUP for a shorter length */
  async truncate(length: number, { preallocation }: TruncateOptions): Promise<void> {
    if (preallocation !== 'off') {
      throw blockError('ENOTSUP', `Unsupported preallocation mode '${preallocation}'`)
    }
    if (length < this.length) {
      throw blockError('ENOTSUP', 'Shrinking of VDI images is not supported')
    }
    await runAlone(this.#node, this.#path.mutex, () => grow(this.#parts, length))
    this.length = length
  }

  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  close(): Wait {
    return this.#node.readOnly ? undefined : this.#path.finish()
  }
}
