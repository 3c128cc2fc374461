import {
  type BlockChild,
  type BlockNode,
  type CheckFix,
  type CheckResult,
  type DriverInfo,
  type DriverState,
  nothingToReopen,
  type ReopenPlan,
} from '../../../graph/index.js'
import type { BlockLimits, FlushPath, MapPath } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { Bat } from './bat.js'
import { checkTable } from './check.js'
import { type DiskParameters, isPresent, type Region } from './metadata.js'
import type { VhdxPath } from './path.js'

export interface VhdxParts {
  readonly node: BlockNode
  readonly file: BlockChild
  readonly bat: Bat
  readonly disk: DiskParameters
  readonly path: VhdxPath
  /** What blocks must not overlap: log, table, metadata. */
  readonly regions: readonly Region[]
  /** The log was replayed when the disk was opened. */
  readonly replayed: boolean
}

/** An open VHDX. */
export class VhdxImage implements DriverState {
  readonly length: number
  readonly map: MapPath
  readonly flushPath: FlushPath
  readonly clusterSize: number
  readonly #parts: VhdxParts
  #replayed: boolean

  constructor(parts: VhdxParts) {
    this.#parts = parts
    this.#replayed = parts.replayed
    this.length = parts.disk.diskBytes
    this.map = parts.path
    this.flushPath = parts.path
    this.clusterSize = parts.disk.blockBytes
  }

  /** Whether a new disk reads as zeroes: not where it has blocks already. */
  get hasZeroInit(): boolean {
    const { bat } = this.#parts
    return bat.entries === 0 || !isPresent(bat.state(0))
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = Math.max(limits.requestAlignment, this.#parts.disk.sectorBytes)
  }

  info(): DriverInfo {
    return { clusterSize: this.clusterSize }
  }

  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  async check(_fix: CheckFix): Promise<CheckResult> {
    const { bat, disk, regions, file } = this.#parts
    const messages = checkTable(bat, disk, regions, file.node.length, false)
    const corruptionsFixed = this.#replayed ? 1 : 0
    this.#replayed = false
    return {
      corruptions: messages.length,
      leaks: 0,
      corruptionsFixed,
      leaksFixed: 0,
      checkErrors: 0,
      imageEndOffset: 0,
      totalClusters: 0,
      allocatedClusters: 0,
      fragmentedClusters: 0,
      compressedClusters: 0,
      messages,
      reports: messages.map((_, index) => index),
    }
  }

  close(): Wait {
    return this.#parts.node.readOnly ? undefined : this.#parts.path.close()
  }
}
