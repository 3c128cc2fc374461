import { guidText } from '../../../bytes/index.js'
import {
  type BlockChild,
  type BlockNode,
  type CheckFix,
  type CheckResult,
  type DriverInfo,
  type DriverState,
  type FormatDetails,
  nothingToReopen,
  type ReopenContext,
  type ReopenPlan,
  skipFilters,
  type TruncateOptions,
  type VhdxDetails,
} from '../../../graph/index.js'
import type { BlockLimits, FlushPath, MapPath } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { Bat } from './bat.js'
import type { SectorBitmaps } from './bitmaps.js'
import { type ChangeContext, changeParent, dropParent, emptyDisk, writeLocator } from './change-parent.js'
import type { DiskChanges, Overlay } from './changes.js'
import { checkTable } from './check.js'
import { DifferencingPath } from './differencing-path.js'
import type { Headers } from './headers.js'
import { type DiskParameters, isPresent, type Regions } from './metadata.js'
import { checkParent } from './parent.js'
import { bracedGuid, LocatorKey } from './parent-locator.js'
import { VhdxPath } from './path.js'
import { mustReplay } from './replay-refusal.js'
import { growDisk } from './resize.js'

export interface VhdxParts {
  readonly node: BlockNode
  readonly file: BlockChild
  readonly bat: Bat
  readonly disk: DiskParameters
  readonly headers: Headers
  readonly changes: DiskChanges
  /** Of a differencing disk. */
  readonly bitmaps: SectorBitmaps | undefined
  /** What blocks must not overlap: log, table, metadata. */
  readonly regions: Regions
  /** Name of the parent of a differencing disk. */
  readonly parent: string | undefined
  /** The log was replayed when the disk was opened. */
  readonly replayed: boolean
  /** The log was replayed in memory only: the file must not be written to. */
  readonly isReplayedInMemory: boolean
}

/** An open VHDX. */
export class VhdxImage implements DriverState, Overlay {
  length: number
  readonly map: MapPath
  readonly flushPath: FlushPath
  readonly clusterSize: number
  backingFile: string | undefined
  backingFormat: string | undefined
  // Of differencing disks alone:
  readonly checkBacking?: (backing: BlockNode) => void
  readonly changeBacking?: (filename: string | undefined, format: string | undefined) => Promise<void>
  readonly makeEmpty?: () => Promise<void>
  readonly parentChanges?: (dataWriteGuid: Uint8Array) => Promise<void>
  readonly #parts: VhdxParts
  /** The pairs of the parent locator. */
  #locator: ReadonlyMap<string, string> | undefined
  #replayed: boolean

  constructor(parts: VhdxParts) {
    this.#parts = parts
    this.#replayed = parts.replayed
    this.length = parts.disk.diskBytes
    this.clusterSize = parts.disk.blockBytes
    const { node, bitmaps, disk } = parts
    const context = { ...parts, owner: node }
    if (bitmaps === undefined) {
      const path = new VhdxPath(context)
      this.map = path
      this.flushPath = path
      return
    }
    const path = new DifferencingPath({ ...context, bitmaps })
    this.map = path
    this.flushPath = path
    this.#locator = disk.parent
    this.backingFile = parts.parent
    this.backingFormat = parts.parent === undefined ? undefined : 'vhdx'
    const change: ChangeContext = { ...parts, bitmaps, path }
    const { mutex } = parts.changes
    this.checkBacking = (backing) => checkParent(this.#locator ?? new Map(), backing)
    this.makeEmpty = () => mutex.run(() => emptyDisk(change))
    this.changeBacking = (filename, format) =>
      mutex.run(async () => {
        if (filename === undefined) {
          await dropParent(change)
          this.#locator = undefined
        } else {
          this.#locator = await changeParent(change, filename, format)
        }
        this.backingFile = filename
        this.backingFormat = filename === undefined ? undefined : 'vhdx'
      })
    this.parentChanges = (guid) => mutex.run(() => this.#expect(change, guid))
  }

  /** The parent gets another identifier because we write to it: from now on both are right. */
  async #expect(change: ChangeContext, guid: Uint8Array): Promise<void> {
    const { node } = this.#parts
    const backing = skipFilters(node.backing)?.state
    if (node.readOnly || this.#locator === undefined || !(backing instanceof VhdxImage)) {
      return
    }
    const pairs = new Map(this.#locator)
    pairs.set(LocatorKey.linkage, bracedGuid(backing.dataWriteGuid))
    pairs.set(LocatorKey.nextLinkage, bracedGuid(guid))
    await writeLocator(change, pairs)
    this.#locator = pairs
  }

  details(): FormatDetails {
    const { disk, headers, bitmaps } = this.#parts
    const { current } = headers
    const data: VhdxDetails = {
      kind: bitmaps !== undefined ? 'differencing' : disk.leaveAllocated ? 'fixed' : 'dynamic',
      'disk-id': guidText(disk.diskId),
      'block-size': disk.blockBytes,
      'logical-sector-size': disk.sectorBytes,
      'physical-sector-size': disk.physicalSectorBytes,
      'file-write-guid': guidText(current.fileWriteGuid),
      'data-write-guid': guidText(current.dataWriteGuid),
      'log-size': current.logLength,
      'log-in-use': current.logGuid.some((byte) => byte !== 0),
      ...(this.#locator === undefined ? {} : { parent: Object.fromEntries(this.#locator) }),
    }
    return { type: 'vhdx', data }
  }

  /** Identifier of the contents: another one after every session that wrote to them. */
  get dataWriteGuid(): Uint8Array {
    return this.#parts.headers.current.dataWriteGuid
  }

  /** Logical sector, bytes. */
  get sectorBytes(): number {
    return this.#parts.disk.sectorBytes
  }

  /** Whether a new disk reads as zeroes: not where it has blocks already. */
  get hasZeroInit(): boolean {
    const { bat } = this.#parts
    return bat.entries === 0 || !isPresent(bat.state(0))
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = Math.max(limits.requestAlignment, this.#parts.disk.sectorBytes)
  }

  /** Grows the disk; QEMU cannot. @throws BlockError ENOTSUP for a shorter length */
  async truncate(length: number, how: TruncateOptions): Promise<void> {
    await growDisk(this.#parts, length, how)
    this.length = this.#parts.disk.diskBytes
  }

  info(): DriverInfo {
    return { clusterSize: this.clusterSize }
  }

  /**
   * A disk that is not written to any more needs no replay.
   *
   * @throws BlockError EPERM if the log was replayed in memory only and the disk is to be written to
   */
  async prepareReopen({ readOnly }: ReopenContext): Promise<ReopenPlan> {
    const { node, changes, isReplayedInMemory } = this.#parts
    if (!readOnly && isReplayedInMemory) {
      throw mustReplay(node.filename)
    }
    if (readOnly && !node.readOnly) {
      await changes.close()
    }
    return nothingToReopen
  }

  async check(_fix: CheckFix): Promise<CheckResult> {
    const { bat, disk, regions, file } = this.#parts
    const messages = checkTable(bat, disk, regions.all, file.node.length, false)
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
    return this.#parts.node.readOnly ? undefined : this.#parts.changes.close()
  }
}
