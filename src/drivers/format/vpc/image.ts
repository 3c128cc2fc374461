import {
  type BlockChild,
  type BlockNode,
  type DriverInfo,
  type DriverState,
  hasZeroInit,
  nothingToReopen,
  type ReopenPlan,
} from '../../../graph/index.js'
import type { BlockLimits, FlushPath, MapPath } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { BlockTable } from './block-table.js'
import type { DynamicHeader } from './dynamic-header.js'
import { DynamicPath } from './dynamic-path.js'
import { FixedPath } from './fixed-path.js'
import { DiskType, type Footer } from './footer.js'
import { sectorBytes } from './geometry.js'
import type { SizeCalculation } from './open.js'
import type { BlockShape, BlockSpace } from './space.js'

/** What all but fixed disks have. */
export interface VpcBlocks {
  readonly header: DynamicHeader
  readonly table: BlockTable
  readonly space: BlockSpace
  readonly shape: BlockShape
}

export interface VpcParts {
  readonly node: BlockNode
  readonly file: BlockChild
  readonly footer: Footer
  /** Bytes. */
  readonly length: number
  readonly calc: SizeCalculation
  /** Undefined for a fixed disk. */
  readonly blocks: VpcBlocks | undefined
}

/** An open VHD. */
export class VpcImage implements DriverState {
  length: number
  readonly map: MapPath
  readonly flushPath?: FlushPath
  readonly clusterSize?: number
  readonly #parts: VpcParts

  constructor(parts: VpcParts) {
    this.#parts = parts
    this.length = parts.length
    const { node, file, blocks, footer } = parts
    // QEMU's rule: the footer says whether blocks are used, wherever it stands.
    if (blocks === undefined || footer.type === DiskType.fixed) {
      this.map = new FixedPath(file)
      return
    }
    const path = new DynamicPath(node, { file, ...blocks })
    this.map = path
    this.flushPath = path
    this.clusterSize = blocks.shape.blockSize
  }

  get hasZeroInit(): boolean {
    return this.clusterSize === undefined ? hasZeroInit(this.#parts.file.node) : true
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = Math.max(limits.requestAlignment, sectorBytes)
  }

  info(): DriverInfo {
    return this.clusterSize === undefined ? {} : { clusterSize: this.clusterSize }
  }

  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  close(): Wait {
    return this.#parts.node.readOnly ? undefined : this.flushPath?.flushToOs?.()
  }
}
