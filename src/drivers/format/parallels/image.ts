import { blockError } from '../../../errors/index.js'
import { runAlone } from '../../../formatkit/index.js'
import {
  type CheckFix,
  type CheckResult,
  type DriverState,
  type FormatDetails,
  nothingToReopen,
  type ParallelsDetails,
  type ReopenContext,
  type ReopenPlan,
  type TruncateOptions,
} from '../../../graph/index.js'
import type { BlockLimits, FlushPath, MapPath } from '../../../io/index.js'
import type { Maybe, Wait } from '../../../sched/index.js'
import { checkImage } from './check.js'
import { sectorBytes } from './layout.js'
import { type ImageParts, ParallelsPath } from './path.js'
import { grow } from './resize.js'

export function notClosed(): Error {
  return blockError('EACCES', 'parallels: Image was not closed correctly; cannot be opened read/write')
}

/** An open Parallels image. */
export class ParallelsImage implements DriverState {
  length: number
  readonly map: MapPath
  readonly flushPath: FlushPath
  readonly hasZeroInit = true
  readonly #parts: ImageParts
  readonly #path: ParallelsPath
  #unclean: boolean

  constructor(parts: ImageParts) {
    this.length = parts.length
    this.#parts = parts
    this.#unclean = parts.unclean
    this.#path = new ParallelsPath(parts.node, parts)
    this.map = this.#path
    this.flushPath = this.#path
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = Math.max(limits.requestAlignment, sectorBytes)
  }

  details(): FormatDetails {
    const { table } = this.#parts
    const data: ParallelsDetails = {
      kind: table.unit === sectorBytes ? 'WithoutFreeSpace' : 'WithouFreSpacExt',
      'cluster-size': table.clusterSize,
      clusters: table.entries,
      'in-use': table.inUse,
      'format-extension': table.extOffset !== 0,
    }
    return { type: 'parallels', data }
  }

  async check(fix: CheckFix): Promise<CheckResult> {
    const run = async (): Promise<CheckResult> => {
      const { result, unclean } = await checkImage(this.#parts, this.#unclean, fix)
      this.#unclean = unclean
      return result
    }
    return fix.leaks || fix.errors ? await runAlone(this.#parts.node, this.#path.mutex, run) : await run()
  }

  /** Grows the disk; QEMU cannot. @throws BlockError ENOTSUP for a shorter length */
  async truncate(length: number, { preallocation }: TruncateOptions): Promise<void> {
    if (preallocation !== 'off') {
      throw blockError('ENOTSUP', `Unsupported preallocation mode '${preallocation}'`)
    }
    if (length < this.length) {
      throw blockError('ENOTSUP', 'Shrinking of Parallels images is not supported')
    }
    await runAlone(this.#parts.node, this.#path.mutex, async () => {
      await this.#path.markInUse()
      await grow(this.#parts, length)
    })
    this.length = length
  }

  prepareReopen({ readOnly }: ReopenContext): Maybe<ReopenPlan> {
    if (readOnly) {
      return this.#finishBeforeReopen()
    }
    if (this.#unclean) {
      throw notClosed()
    }
    if (this.#parts.extensionEnd !== 0) {
      throw blockError('ENOTSUP', 'Images with a format extension cannot be reopened read/write')
    }
    return nothingToReopen
  }

  /** Nobody can take the mark away later. */
  async #finishBeforeReopen(): Promise<ReopenPlan> {
    await this.#path.finish()
    return nothingToReopen
  }

  inactivate(): Wait {
    return this.#path.finish()
  }

  close(): Wait {
    return this.#path.finish()
  }
}
