import { codeOf, ioError, strerror } from '../../../errors/index.js'
import { encryptedPath, sectorBytes } from '../../../formatkit/crypto/index.js'
import {
  type AmendContext,
  type BlockChild,
  type CheckFix,
  type CheckResult,
  type DriverInfo,
  type DriverState,
  hasZeroInit,
  type KeyHooks,
  type ReopenContext,
  type ReopenPlan,
  type SnapshotInfo,
  type SpecificInfo,
  type TruncateOptions,
  type VmStateArea,
} from '../../../graph/index.js'
import {
  type BlockLimits,
  type ExtentSink,
  type FlushPath,
  type IoNode,
  type MapPath,
  type RangeResult,
  ReqFlags,
  type WritePlan,
} from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { amend } from './amend.js'
import type { PersistentBitmaps } from './bitmap-store.js'
import { checkImage } from './check.js'
import { ClusterWriter } from './cluster.js'
import { CompressedClusters } from './compressed.js'
import { Incompatible, maxBackingFileBytes } from './constants.js'
import { type FreshCrypto, installEncryption } from './crypto-create.js'
import { keyHooks } from './crypto-keys.js'
import { makeEmpty } from './empty.js'
import { L2Tables } from './l2-tables.js'
import { Mapping } from './mapping.js'
import type { Qcow2Metadata } from './metadata.js'
import { prepareReopen } from './reopen.js'
import { ImageRepair } from './repair.js'
import { Resize } from './resize.js'
import type { RuntimeSettings } from './settings.js'
import { Qcow2Snapshots } from './snapshot-operations.js'
import { specificInfo } from './specific-info.js'
import { SubclusterChanges } from './subcluster-changes.js'
import { SubclusterMapping } from './subcluster-mapping.js'
import { SubclusterWriter } from './subcluster-writer.js'
import { SubclusterEntries } from './subclusters.js'
import { Qcow2VmState } from './vm-state.js'
import { ZeroDiscard } from './zero-discard.js'

/** The path of an image's requests. */
class ImagePath implements MapPath {
  readonly #mapping: Mapping
  readonly #writer: ClusterWriter
  readonly #zeroDiscard: ZeroDiscard
  readonly #compressed: CompressedClusters

  constructor(
    mapping: Mapping,
    writer: ClusterWriter,
    zeroDiscard: ZeroDiscard,
    compressed: CompressedClusters,
  ) {
    this.#mapping = mapping
    this.#writer = writer
    this.#zeroDiscard = zeroDiscard
    this.#compressed = compressed
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    return this.#mapping.resolveRead(offset, bytes, out)
  }

  resolveWrite(offset: number, bytes: number, _flags: number, plan: WritePlan): Wait {
    return this.#writer.resolveWrite(offset, bytes, plan)
  }

  commitWrite(plan: WritePlan): Wait {
    return this.#writer.commitWrite(plan)
  }

  abortWrite(plan: WritePlan): Wait {
    return this.#writer.abortWrite(plan)
  }

  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    return this.#zeroDiscard.zero(offset, bytes, flags, out)
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    return this.#zeroDiscard.discard(offset, bytes, out)
  }

  readEncoded(cookie: number, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#compressed.readEncoded(cookie, offset, bytes, buffer, bufferOffset)
  }

  writeCompressed(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#compressed.writeCompressed(offset, bytes, buffer, bufferOffset)
  }
}

/** What is left of an image that was found corrupt while it could be written. */
function outOfService(node: IoNode): MapPath & FlushPath {
  const refuse = (): never => {
    throw ioError('ENOMEDIUM', { node: node.nodeName })
  }
  return {
    resolveRead: refuse,
    resolveWrite: refuse,
    commitWrite: refuse,
    abortWrite: () => undefined,
    zero: refuse,
    discard: refuse,
    writeCompressed: refuse,
    readEncoded: refuse,
    flushToOs: refuse,
  }
}

/** Plain L2 entries that say all by themselves have the shortest ways. */
function paths(meta: Qcow2Metadata, tables: L2Tables) {
  if (!meta.geometry.extendedL2 && !meta.isExternal) {
    const writer = new ClusterWriter(meta, tables)
    return { mapping: new Mapping(meta), writer, zeroDiscard: new ZeroDiscard(meta, tables, writer) }
  }
  const entries = new SubclusterEntries(meta.geometry, meta.isExternal)
  const writer = new SubclusterWriter(meta, tables, entries)
  return {
    mapping: new SubclusterMapping(meta, entries),
    writer,
    zeroDiscard: new SubclusterChanges(meta, tables, writer, entries),
  }
}

/** Only version 3 has zero clusters. */
function zeroFlags({ header }: Qcow2Metadata): number {
  return header.version >= 3 ? ReqFlags.mayUnmap | ReqFlags.noFallback : 0
}

/** An open qcow2 image. */
export class Qcow2Image implements DriverState {
  readonly file: BlockChild
  readonly map: MapPath
  readonly flushPath: FlushPath
  supportedZeroFlags: number
  readonly clusterSize: number
  readonly bitmapStore: PersistentBitmaps
  readonly #meta: Qcow2Metadata
  readonly #resize: Resize
  readonly snapshotOperations: Qcow2Snapshots
  readonly #zeroDiscard: ZeroDiscard
  readonly #compressed: CompressedClusters
  #settings: RuntimeSettings
  readonly vmState: VmStateArea
  readonly key: KeyHooks | undefined

  constructor(meta: Qcow2Metadata, file: BlockChild, settings: RuntimeSettings, bitmaps: PersistentBitmaps) {
    this.#meta = meta
    this.#settings = settings
    this.file = file
    this.bitmapStore = bitmaps
    this.clusterSize = meta.geometry.clusterSize
    this.supportedZeroFlags = zeroFlags(meta)
    const tables = new L2Tables(meta)
    const { mapping, writer, zeroDiscard } = paths(meta, tables)
    const compressed = new CompressedClusters(meta, tables)
    writer.onCompressedFreed = () => compressed.invalidate()
    this.#zeroDiscard = zeroDiscard
    this.#compressed = compressed
    const path = new ImagePath(mapping, writer, zeroDiscard, compressed)
    this.map = meta.crypto === undefined ? path : encryptedPath(path, meta.crypto)
    this.key = keyHooks(meta)
    this.flushPath = { flushToOs: () => meta.flushToOs() }
    this.#resize = new Resize(meta, tables, writer, zeroDiscard, bitmaps, () => {
      const { l2Entries, l2EntryBytes, refcountEntries } = this.#settings.caches()
      meta.l2.capacity = Math.floor((l2Entries * l2EntryBytes) / meta.l2.tableBytes)
      meta.blocks.capacity = refcountEntries
    })
    this.snapshotOperations = new Qcow2Snapshots({
      meta,
      tables,
      resize: this.#resize,
      zeroDiscard,
      forgetDecoded: () => compressed.invalidate(),
    })
    this.vmState = new Qcow2VmState(meta)
    meta.corruption.onFatal = () => {
      const dead = outOfService(meta.node)
      meta.node.map = dead
      meta.node.flushPath = dead
    }
  }

  /** @internal For operations of this driver that have files of their own. */
  get metadata(): Qcow2Metadata {
    return this.#meta
  }

  get header() {
    return this.#meta.header
  }

  get length(): number {
    return this.#meta.header.size
  }

  get backingFile(): string | undefined {
    return this.#meta.header.backingFile
  }

  get backingFormat(): string | undefined {
    return this.#meta.header.backingFormat
  }

  /** Clusters allocated ahead are as the file is; all others read as zeroes. */
  get hasZeroInit(): boolean {
    const { l1, file } = this.#meta
    // Zeroes of the file are not zeroes once they are deciphered.
    return l1.size === 0 || l1.tableOffset(0) === 0 || (this.#meta.crypto === undefined && hasZeroInit(file))
  }

  refreshLimits(limits: BlockLimits): void {
    if (this.#meta.crypto !== undefined) {
      limits.requestAlignment = Math.max(limits.requestAlignment, sectorBytes)
    }
    limits.zeroAlignment = this.#meta.geometry.subclusterSize
    limits.discardAlignment = this.clusterSize
  }

  truncate(length: number, how: TruncateOptions): Wait {
    return this.#resize.truncate(length, how)
  }

  async check(fix: CheckFix, signal?: AbortSignal): Promise<CheckResult> {
    const meta = this.#meta
    return await meta.locked(async () => {
      // The check reads the file, not the caches.
      await meta.writeCaches()
      if (!fix.leaks && !fix.errors) {
        return await checkImage(this, fix, signal)
      }
      if (!meta.loaded) {
        await meta.load()
      }
      const repair = new ImageRepair(meta, this.snapshotOperations, () => this.#compressed.invalidate())
      return await checkImage(this, fix, signal, repair)
    })
  }

  async changeBacking(filename: string | undefined, format: string | undefined): Promise<void> {
    const { header } = this.#meta
    const name = filename === '' ? undefined : filename
    if (name !== undefined && this.#meta.isRawData) {
      throw ioError('EINVAL')
    }
    if (name !== undefined && new TextEncoder().encode(name).length > maxBackingFileBytes) {
      throw ioError('EINVAL')
    }
    await this.#meta.locked(async () => {
      const { backingFile, backingFormat, backingFileBytes } = header
      header.backingFile = name
      header.backingFormat = format === '' ? undefined : format
      header.backingFileBytes = undefined
      try {
        await this.#meta.writeHeader()
      } catch (error) {
        Object.assign(header, { backingFile, backingFormat, backingFileBytes })
        throw error
      }
    })
  }

  async makeEmpty(): Promise<void> {
    this.#compressed.invalidate()
    await makeEmpty(this.#meta, this.#zeroDiscard)
  }

  async prepareReopen(context: ReopenContext): Promise<ReopenPlan> {
    return await prepareReopen(context, this.#meta, this.bitmapStore, (settings) => {
      this.#settings = settings
    })
  }

  async amend(context: AmendContext): Promise<void> {
    const meta = this.#meta
    if (!meta.loaded) {
      await meta.locked(() => meta.load())
    }
    await amend(context, {
      meta,
      snapshots: this.snapshotOperations,
      versionChanged: () => {
        this.supportedZeroFlags = zeroFlags(meta)
        meta.node.supportedZeroFlags = this.supportedZeroFlags
      },
    })
  }

  /** @internal Records the name of a new image's data file. */
  async nameDataFile(filename: string): Promise<void> {
    await this.#meta.locked(async () => {
      this.#meta.header.dataFile = filename
      await this.#meta.writeHeader()
    })
  }

  /** @internal Makes a new image an encrypted one. */
  async encrypt(fresh: FreshCrypto): Promise<void> {
    await installEncryption(this.#meta, fresh)
  }

  info(): DriverInfo {
    const { header, geometry } = this.#meta
    return {
      clusterSize: this.clusterSize,
      vmStateOffset: header.l1VmStateIndex * geometry.l1Span,
      isDirty: (header.incompatible & Incompatible.dirty) !== 0,
    }
  }

  async specificInfo(): Promise<SpecificInfo> {
    return await specificInfo(this.#meta.header, this.#meta.file, this.#meta.crypto?.info())
  }

  snapshots(): readonly SnapshotInfo[] {
    return this.#meta.snapshots
  }

  /** Opens the image again over the same file; set by who opened it. */
  reload: (() => Promise<Qcow2Image>) | undefined = undefined

  async invalidate(): Promise<Qcow2Image | undefined> {
    const fresh = await this.reload?.()
    if (fresh !== undefined) {
      this.#meta.crypto?.dispose()
      this.#meta.cleaner.stop()
    }
    return fresh
  }

  /** Writes everything back, so that another process may open the image. */
  async inactivate(): Promise<void> {
    await this.#meta.locked(async () => {
      const stored = await this.bitmapStore.storeAtEnd()
      this.bitmapStore.release()
      await this.#meta.writeCaches()
      if (!stored) {
        throw ioError('EINVAL', { node: this.#meta.node.nodeName, operation: 'inactivate' })
      }
      await this.#markClean()
    })
  }

  /** Refcounts are in the file: whoever opens the image need not repair them. */
  async #markClean(): Promise<void> {
    if (!this.#meta.node.readOnly) {
      await this.#meta.markClean(Incompatible.dirty)
    }
  }

  /** Writes back what is in memory. What cannot be written is lost, with a word to the user. */
  async close(): Promise<void> {
    const { corruption, host, crypto } = this.#meta
    crypto?.dispose()
    this.#meta.cleaner.stop()
    await corruption.settled()
    if (corruption.fatal) {
      return
    }
    await this.#meta.locked(async () => {
      let complete = true
      if (!this.#meta.node.readOnly) {
        await this.bitmapStore.storeAtEnd()
      }
      try {
        await this.#meta.writeL2()
      } catch (error) {
        host.warn(`error: Failed to flush the L2 table cache: ${strerror(codeOf(error))}`)
        complete = false
      }
      try {
        await this.#meta.writeBlocks()
      } catch (error) {
        host.warn(`error: Failed to flush the refcount block cache: ${strerror(codeOf(error))}`)
        complete = false
      }
      if (complete) {
        // The image stays dirty if this fails, which only costs the next one a repair.
        await this.#markClean().catch(() => undefined)
      }
    })
  }
}
