import { alignUp } from '../../../bytes/index.js'
import { encryptedPath } from '../../../formatkit/crypto/index.js'
import {
  type BlockNode,
  type DriverInfo,
  type DriverState,
  type FormatDetails,
  nothingToReopen,
  type ReopenPlan,
  truncateNode,
} from '../../../graph/index.js'
import type { BlockLimits, FlushPath, MapPath } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { CompressedClusters } from './compressed.js'
import type { QcowCrypto } from './crypto.js'
import { sectorBytes } from './header.js'
import { QcowPath } from './path.js'
import type { QcowTables } from './tables.js'

export interface QcowParts {
  readonly tables: QcowTables
  /** Length of the disk, bytes. */
  readonly length: number
  readonly backingFile: string | undefined
  readonly crypto: QcowCrypto | undefined
}

/** An open qcow image. */
export class QcowImage implements DriverState {
  readonly length: number
  readonly backingFile: string | undefined
  readonly map: MapPath
  readonly flushPath: FlushPath
  readonly clusterSize: number
  readonly hasZeroInit = true
  readonly key: QcowCrypto | undefined
  readonly #node: BlockNode
  readonly #tables: QcowTables
  readonly #compressed: CompressedClusters

  constructor(node: BlockNode, { tables, length, backingFile, crypto }: QcowParts) {
    this.length = length
    this.backingFile = backingFile
    this.clusterSize = tables.clusterSize
    this.key = crypto
    this.#node = node
    this.#tables = tables
    this.#compressed = new CompressedClusters(node.host, node, tables, crypto !== undefined)
    const path = new QcowPath(node, tables, this.#compressed, crypto !== undefined)
    this.map = crypto === undefined ? path : encryptedPath(path, crypto)
    this.flushPath = { flushToOs: () => tables.writeBack() }
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = Math.max(limits.requestAlignment, sectorBytes)
  }

  info(): DriverInfo {
    return { clusterSize: this.clusterSize }
  }

  details(): FormatDetails {
    const encryption = this.key === undefined ? 'none' : 'aes'
    return { type: 'qcow', data: { 'l2-size': this.#tables.l2.tableBytes / 8, encryption } }
  }

  async makeEmpty(): Promise<void> {
    const { mutex, file, fixedEnd } = this.#tables
    await mutex.run(async () => {
      await this.#tables.clear()
      await truncateNode(file.node, fixedEnd, { exact: false, preallocation: 'off', zero: false })
    })
    this.#compressed.invalidate()
  }

  prepareReopen(): ReopenPlan {
    return nothingToReopen
  }

  inactivate(): Wait {
    return this.#node.readOnly ? undefined : this.#finish()
  }

  async close(): Promise<void> {
    try {
      if (!this.#node.readOnly) {
        await this.#finish()
      }
    } finally {
      this.key?.dispose()
    }
  }

  /** Writes everything back. Nothing is in flight any more, so that the file can get its full length. */
  async #finish(): Promise<void> {
    const { file, space } = this.#tables
    // Others give their next cluster the place behind the file's end.
    if (file.node.length < space.end) {
      const end = alignUp(space.end, sectorBytes)
      await truncateNode(file.node, end, { exact: false, preallocation: 'off', zero: false })
    }
    const wait = this.#tables.writeBack()
    if (wait !== undefined) {
      await wait
    }
  }
}
