import { uuidText } from '../../../bytes/index.js'
import { ioError } from '../../../errors/index.js'
import {
  type BlockChild,
  type BlockNode,
  type DriverInfo,
  type DriverState,
  type FormatDetails,
  hasZeroInit,
  nothingToReopen,
  type ReopenPlan,
  type TruncateOptions,
  type VpcDetails,
} from '../../../graph/index.js'
import type { BlockLimits, FlushPath, MapPath } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { BlockTable } from './block-table.js'
import { type ChangeContext, changeParent, dropParent, emptyDisk } from './change-parent.js'
import { DifferencingPath } from './differencing-path.js'
import type { DynamicHeader } from './dynamic-header.js'
import { DynamicPath } from './dynamic-path.js'
import { FixedPath } from './fixed-path.js'
import { DiskType, type Footer, timestampBase } from './footer.js'
import { sectorBytes } from './geometry.js'
import type { SizeCalculation } from './open.js'
import { checkParent } from './parent.js'
import { growDynamic, growFixed } from './resize.js'
import type { BlockShape, BlockSpace } from './space.js'

/** Four characters of a footer, without what pads them. */
function printable(text: string): string {
  return text.replace(/[^\x21-\x7e]+$/, '').replace(/[^\x20-\x7e]/g, '.')
}

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
  /** Name of the parent of a differencing disk. */
  readonly parent: string | undefined
}

/** An open VHD. */
export class VpcImage implements DriverState {
  length: number
  readonly map: MapPath
  readonly flushPath?: FlushPath
  readonly clusterSize?: number
  backingFile: string | undefined
  backingFormat: string | undefined
  // Of differencing disks alone:
  readonly checkBacking?: (backing: BlockNode) => void
  readonly changeBacking?: (filename: string | undefined, format: string | undefined) => Promise<void>
  readonly makeEmpty?: () => Promise<void>
  readonly #parts: VpcParts
  readonly #path: DynamicPath | DifferencingPath | undefined
  #footer: Footer

  constructor(parts: VpcParts) {
    this.#parts = parts
    this.#footer = parts.footer
    this.length = parts.length
    const { node, file, blocks, footer } = parts
    // QEMU's rule: the footer says whether blocks are used, wherever it stands.
    if (blocks === undefined || footer.type === DiskType.fixed) {
      this.map = new FixedPath(file)
      return
    }
    const isDifferencing = footer.type === DiskType.differencing
    const context = { file, ...blocks }
    const differencing = isDifferencing ? new DifferencingPath(node, context) : undefined
    const path = differencing ?? new DynamicPath(node, context)
    this.map = path
    this.#path = path
    this.flushPath = path
    this.clusterSize = blocks.shape.blockSize
    if (differencing !== undefined) {
      const change: ChangeContext = { node, file, blocks, path: differencing }
      this.backingFile = parts.parent
      this.backingFormat = parts.parent === undefined ? undefined : 'vpc'
      this.checkBacking = (backing) => checkParent(blocks.header, backing)
      this.changeBacking = (filename, format) => this.#changeBacking(change, filename, format)
      this.makeEmpty = () => differencing.mutex.run(() => emptyDisk(change))
    }
  }

  get footer(): Footer {
    return this.#footer
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

  details(): FormatDetails {
    const footer = this.#footer
    const { blocks } = this.#parts
    const kinds = ['fixed', 'dynamic', 'differencing'] as const
    const { cylinders, heads, sectors } = footer.geometry
    const data: VpcDetails = {
      kind: kinds.find((kind) => DiskType[kind] === footer.type) ?? `unknown (${footer.type})`,
      uuid: uuidText(footer.uuid),
      created: new Date((footer.timestamp + timestampBase) * 1000).toISOString(),
      'creator-application': printable(footer.creator),
      'creator-version': footer.creatorVersion,
      'creator-host': printable(footer.creatorHost),
      geometry: { cylinders, heads, sectors },
      'current-size': footer.currentSize,
      ...(blocks === undefined || footer.type === DiskType.fixed
        ? {}
        : { 'block-size': blocks.shape.blockSize }),
      ...(blocks === undefined || footer.type !== DiskType.differencing
        ? {}
        : { 'parent-uuid': uuidText(blocks.header.parentUuid), 'parent-name': blocks.header.parentName }),
    }
    return { type: 'vpc', data }
  }

  /** Grows the disk; QEMU cannot. @throws BlockError ENOTSUP for a shorter length */
  async truncate(length: number, how: TruncateOptions): Promise<void> {
    const { file, blocks } = this.#parts
    const path = this.#path
    if (path === undefined && blocks !== undefined) {
      // A footer that calls the disk fixed, in front of a dynamic one's header: nobody knows what is right.
      throw ioError('ENOTSUP')
    }
    this.#footer =
      path === undefined || blocks === undefined
        ? await growFixed(file, this.#footer, this.length, length, how)
        : await path.mutex.run(() => growDynamic({ file, ...blocks }, this.length, length, how))
    this.length = length
  }

  async #changeBacking(
    context: ChangeContext,
    filename: string | undefined,
    format: string | undefined,
  ): Promise<void> {
    await context.path.mutex.run(async () => {
      await context.path.writeBack()
      this.#footer = await (filename === undefined
        ? dropParent(context)
        : changeParent(context, filename, format))
    })
    this.backingFile = filename
    this.backingFormat = filename === undefined ? undefined : 'vpc'
  }

  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  close(): Wait {
    return this.#parts.node.readOnly ? undefined : this.flushPath?.flushToOs?.()
  }
}
