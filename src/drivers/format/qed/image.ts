import { blockError, errnoError } from '../../../errors/index.js'
import { runAlone } from '../../../formatkit/index.js'
import {
  type BlockNode,
  type CheckFix,
  type CheckResult,
  type DriverInfo,
  type DriverState,
  type FormatDetails,
  nothingToReopen,
  type QedDetails,
  type ReopenPlan,
  type TruncateOptions,
  truncateNode,
} from '../../../graph/index.js'
import { type BlockLimits, type FlushPath, maxLength } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { checkImage } from './check.js'
import { Feature, headerBytes, mappableBytes, maxBackingNameBytes, sectorBytes } from './header.js'
import { QedPath } from './path.js'
import { l1BytesOf, type QedTables } from './tables.js'

export interface QedParts {
  readonly tables: QedTables
  readonly backingFile: string | undefined
  readonly backingFormat: string | undefined
}

/** An open qed image. */
export class QedImage implements DriverState {
  readonly map: QedPath
  readonly flushPath: FlushPath
  readonly clusterSize: number
  readonly hasZeroInit = true
  backingFile: string | undefined
  backingFormat: string | undefined
  readonly #node: BlockNode
  readonly #tables: QedTables

  constructor(node: BlockNode, { tables, backingFile, backingFormat }: QedParts) {
    this.backingFile = backingFile
    this.backingFormat = backingFormat
    this.clusterSize = tables.clusterSize
    this.#node = node
    this.#tables = tables
    this.map = new QedPath(node, tables)
    this.flushPath = { flushToOs: () => tables.writeBack() }
  }

  get length(): number {
    return this.#tables.header.size
  }

  refreshLimits(limits: BlockLimits): void {
    limits.zeroAlignment = this.clusterSize
  }

  info(): DriverInfo {
    return { clusterSize: this.clusterSize, isDirty: this.#tables.header.needsCheck }
  }

  details(): FormatDetails {
    const { header } = this.#tables
    const data: QedDetails = {
      'table-size': header.tableClusters,
      'need-check': header.needsCheck,
      'backing-is-raw': (header.features & Feature.backingIsRaw) !== 0,
    }
    return { type: 'qed', data }
  }

  async check(fix: CheckFix): Promise<CheckResult> {
    // QEMU repairs all or nothing.
    const repair = fix.leaks || fix.errors
    return repair
      ? await runAlone(this.#node, this.#tables.mutex, () => checkImage(this.#tables, true))
      : await this.#tables.mutex.run(() => checkImage(this.#tables, false))
  }

  async truncate(length: number, { preallocation }: TruncateOptions): Promise<void> {
    const { header, file } = this.#tables
    if (preallocation !== 'off') {
      throw blockError('ENOTSUP', `Unsupported preallocation mode '${preallocation}'`)
    }
    const most = Math.min(maxLength, mappableBytes(header.clusterSize, header.tableClusters))
    if (length % sectorBytes !== 0 || length > most) {
      throw blockError('EINVAL', 'Invalid image size specified')
    }
    if (length < header.size) {
      throw blockError('ENOTSUP', 'Shrinking images is currently not supported')
    }
    await runAlone(this.#node, this.#tables.mutex, async () => {
      // The rest of the last cluster shows from now on.
      const old = header.size
      await this.#tables.growL1(l1BytesOf(header, length))
      header.size = length
      try {
        await this.#tables.writeHeader()
        await file.node.flush()
      } catch (error) {
        header.size = old
        throw error
      }
    })
  }

  /**
   * The name stands behind the header's fields, where the old one was: both are written as one piece, so
   * that no name can be cut off, and are durable when this is done.
   */
  async changeBacking(filename: string | undefined, format: string | undefined): Promise<void> {
    await this.#tables.mutex.run(() => this.#changeBacking(filename, format))
  }

  async #changeBacking(filename: string | undefined, format: string | undefined): Promise<void> {
    const { header, file } = this.#tables
    const name = filename === undefined || filename === '' ? undefined : new TextEncoder().encode(filename)
    if (name !== undefined && header.hasUnknownCompatible) {
      // Who knows what stands behind the fields.
      throw errnoError('ENOTSUP', 'Unknown compatible features')
    }
    const room = Math.min(header.headerEnd, this.#tables.l1.offset) - headerBytes
    if (name !== undefined && (name.length > maxBackingNameBytes || name.length > room)) {
      throw errnoError('ENOSPC', 'Backing file name does not fit into the header')
    }
    const before = header.bytes.slice()
    header.setBacking(name?.length, format === 'raw')
    const bytes = new Uint8Array(headerBytes + (name?.length ?? 0))
    bytes.set(header.bytes)
    bytes.set(name ?? [], headerBytes)
    try {
      await file.node.write(0, bytes.length, bytes, 0, 0)
      await file.node.flush()
    } catch (error) {
      header.bytes.set(before)
      throw error
    }
    this.backingFile = name === undefined ? undefined : filename
    this.backingFormat = name !== undefined && format === 'raw' ? 'raw' : undefined
  }

  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  inactivate(): Wait {
    return this.#node.readOnly ? undefined : this.#finish()
  }

  close(): Wait {
    return this.#node.readOnly ? undefined : this.#finish()
  }

  /** Writes everything back. Nothing is in flight any more, so that the file can get its full length. */
  async #finish(): Promise<void> {
    const { file, end } = this.#tables
    if (file.node.length < end) {
      await truncateNode(file.node, end, { exact: false, preallocation: 'off', zero: false })
    }
    const wait = this.#tables.writeBack()
    if (wait !== undefined) {
      await wait
    }
  }
}
