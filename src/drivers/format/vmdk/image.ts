import { blockError, ioError } from '../../../errors/index.js'
import { runAlone } from '../../../formatkit/index.js'
import {
  type BlockChild,
  type BlockNode,
  type CheckFix,
  type CheckResult,
  type DriverInfo,
  type DriverState,
  type FormatDetails,
  hasZeroInit,
  nothingToReopen,
  type ReopenPlan,
  type SpecificInfo,
  type TruncateOptions,
} from '../../../graph/index.js'
import type { BlockLimits, FlushPath, MapPath } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import { checkExtents } from './check.js'
import { descriptorDetails, embeddedBytes, withContentId } from './descriptor.js'
import type { Extent } from './extent.js'
import { type PathOwner, VmdkPath } from './path.js'
import { grow } from './resize.js'
import { sectorBytes } from './sparse-header.js'

export interface VmdkParts {
  readonly node: BlockNode
  readonly file: BlockChild
  readonly extents: readonly Extent[]
  readonly createType: string
  readonly cid: number
  readonly parentCid: number
  readonly parent: string | undefined
  /** The descriptor's text, byte for byte, and its place: bytes. */
  readonly descriptor: string
  readonly descriptorOffset: number
}

/** An open VMDK. */
export class VmdkImage implements DriverState, PathOwner {
  length: number
  readonly map: MapPath
  readonly flushPath: FlushPath
  readonly node: BlockNode
  readonly backingFile: string | undefined
  readonly backingFormat: string | undefined
  readonly clusterSize?: number
  readonly #parts: VmdkParts
  readonly #path: VmdkPath
  readonly #marking = new Mutex()
  #descriptor: string
  #rightParent: unknown
  /** Identifier of the contents. */
  cid: number
  isMarkedChanged = false

  constructor(parts: VmdkParts) {
    this.#parts = parts
    this.node = parts.node
    this.cid = parts.cid
    this.#descriptor = parts.descriptor
    this.backingFile = parts.parent
    this.backingFormat = parts.parent === undefined ? undefined : 'vmdk'
    const last = parts.extents.at(-1)
    this.length = last === undefined ? 0 : last.start + last.length
    this.#path = new VmdkPath(this, parts.extents)
    this.map = this.#path
    this.flushPath = this.#path
    const [first] = parts.extents
    if (first !== undefined && !first.flat && this.#isUniform) {
      this.clusterSize = first.grainBytes
    }
  }

  get #isUniform(): boolean {
    const { extents } = this.#parts
    const shape = (extent: Extent): string =>
      extent.flat ? 'flat' : `${extent.grainBytes} ${extent.compressed}`
    return extents.every((extent) => shape(extent) === shape(extents[0] as Extent))
  }

  get hasZeroInit(): boolean {
    return this.#parts.extents.every((extent) => !extent.flat || hasZeroInit(extent.file.node))
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = Math.max(limits.requestAlignment, sectorBytes)
    for (const extent of this.#parts.extents) {
      if (!extent.flat) {
        limits.zeroAlignment = Math.max(limits.zeroAlignment, extent.grainBytes)
      }
    }
  }

  checkParent(): void {
    const { backing } = this.node
    if (backing === undefined || backing === this.#rightParent) {
      return
    }
    const parent = (backing as BlockNode).state
    if (!(parent instanceof VmdkImage && parent.cid === this.#parts.parentCid)) {
      throw ioError('EINVAL')
    }
    // Once is enough: a commit writes to the parent, which changes its identifier.
    this.#rightParent = backing
  }

  async markChanged(): Promise<void> {
    await this.#marking.run(async () => {
      if (this.isMarkedChanged) {
        return
      }
      const random = new DataView(Uint8Array.from(this.node.host.randomBytes(4)).buffer).getUint32(0)
      const text = withContentId(this.#descriptor, random)
      const { file, descriptorOffset } = this.#parts
      const old = this.#descriptor
      const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0))
      let from = 0
      while (from < text.length && text[from] === old[from]) {
        from++
      }
      // Only what changes, so that a descriptor of the same length changes in one sector.
      const to = text.length === old.length ? Math.min(text.length, from + 8) : text.length
      const tail = new Uint8Array(Math.max(0, Math.min(old.length, embeddedBytes) - text.length))
      const changed = new Uint8Array(to - from + tail.length)
      changed.set(bytes.subarray(from, to))
      await file.node.write(descriptorOffset + from, changed.length, changed, 0, 0)
      await file.node.flush()
      this.#descriptor = text
      this.cid = Number.parseInt(/^CID=([\da-f]+)/i.exec(text.slice(text.indexOf('CID=')))?.[1] ?? '0', 16)
      this.isMarkedChanged = true
    })
  }

  info(): DriverInfo {
    const [first] = this.#parts.extents
    const compressed = first !== undefined && !first.flat && first.compressed
    return {
      ...(this.clusterSize === undefined ? {} : { clusterSize: this.clusterSize }),
      ...(compressed && this.#isUniform ? { needsCompressedWrites: true } : {}),
    }
  }

  specificInfo(): SpecificInfo {
    const { createType, parentCid, extents } = this.#parts
    return {
      type: 'vmdk',
      data: {
        cid: this.cid,
        'parent-cid': parentCid,
        'create-type': createType,
        extents: extents.map((extent) => ({
          ...(extent.flat || !extent.compressed ? {} : { compressed: true }),
          'virtual-size': extent.length,
          filename: extent.file.node.filename,
          ...(extent.flat ? {} : { 'cluster-size': extent.grainBytes }),
          format: extent.kind,
        })),
      },
    }
  }

  details(): FormatDetails {
    return { type: 'vmdk', data: descriptorDetails(this.#descriptor) }
  }

  async check(fix: CheckFix): Promise<CheckResult> {
    if (fix.leaks || fix.errors) {
      throw ioError('ENOTSUP')
    }
    return await checkExtents(this.#parts.extents)
  }

  /** Grows the disk; QEMU cannot. @throws BlockError ENOTSUP for a shorter length */
  async truncate(length: number, { preallocation }: TruncateOptions): Promise<void> {
    if (preallocation !== 'off') {
      throw blockError('ENOTSUP', `Unsupported preallocation mode '${preallocation}'`)
    }
    if (length < this.length) {
      throw blockError('ENOTSUP', 'Shrinking of VMDK images is not supported')
    }
    const whole = Math.ceil(length / sectorBytes) * sectorBytes
    if (whole === this.length) {
      return
    }
    const { file, extents, descriptorOffset, createType } = this.#parts
    await runAlone(this.node, this.#path.mutex, async () => {
      await this.#path.writeBack()
      const { node } = this
      const image = { node, file: file.node, extents, descriptorOffset, createType }
      const checkParent = (): void => this.checkParent()
      this.#descriptor = await grow({ ...image, checkParent, descriptor: this.#descriptor }, whole)
    })
    this.length = whole
  }

  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  close(): Wait {
    return this.node.readOnly ? undefined : this.#path.finish()
  }
}
