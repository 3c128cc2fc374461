import { blockError, codeOf, type ErrnoName, errnoError, ioError } from '../errors/index.js'
import {
  type AioContext,
  BlockNode,
  type DriverInfo,
  type DriverState,
  Perm,
  type ReopenContext,
  type ReopenPlan,
  type TruncateOptions,
} from '../graph/index.js'
import type { HostFile, HostThread } from '../host/index.js'
import { type BlockLimits, type FlushPath, type IoNode, ReqFlags } from '../io/index.js'
import { type OptionTree, takeOptions } from '../options/index.js'
import type { Maybe, Wait } from '../sched/index.js'
import { DeviceData, type HostFileData, RegularFileData } from './data.js'
import { type KernelCopyPlace, type KernelCopyTarget, kernelCopyPlace } from './kernel-copy.js'
import { PermissionLocks } from './locks.js'
import { type HostFileSettings, hostFileOptions } from './options.js'
import { isReadOnlyDevice, openPath } from './paths.js'
import { resizeDevice, resizeRegularFile } from './resize.js'
import { DeviceZones } from './zones.js'

/** What a reopen can change besides access and cache mode. */
const reopenOptions = {
  'drop-cache': hostFileOptions['drop-cache'],
  'x-check-cache-dropped': hostFileOptions['x-check-cache-dropped'],
}

const writePermissions = Perm.write | Perm.writeUnchanged | Perm.resize

/** What an open of a host file has found out. */
export interface HostFileOpening {
  readonly node: BlockNode
  readonly path: string
  readonly file: HostFile
  readonly settings: HostFileSettings
  /** `cache.direct=on` */
  readonly direct: boolean
  /** Whether to take locks. */
  readonly locks: boolean
  /** `auto-read-only=on`: open for writing only while someone wants to write. */
  readonly autoReadOnly: boolean
}

/** How the file is open; a reopen changes it. */
interface HostFileMode {
  readonly settings: HostFileSettings
  readonly direct: boolean
  readonly autoReadOnly: boolean
}

/** An open file or device of the host, as the `file` and `host_device` drivers show it. */
export class HostFileState implements DriverState, KernelCopyTarget {
  readonly direct: HostFileData
  readonly flushPath: FlushPath
  readonly supportedZeroFlags = ReqFlags.mayUnmap | ReqFlags.noFallback
  readonly hasZeroInit: boolean
  readonly zones: DeviceZones | undefined
  readonly #opening: HostFileOpening
  #mode: HostFileMode
  /** What a reopen in progress will make of {@link #mode}. */
  #reopening: HostFileMode | undefined = undefined
  readonly #locks: PermissionLocks | undefined
  /** The file opened with the access mode that permissions being prepared need. */
  #replacement: HostFile | undefined = undefined
  /** The file as the platform opened it; {@link file} is the same on the thread that the node is on. */
  #plain: HostFile
  #thread: HostThread | undefined = undefined
  #syncFailure: ErrnoName | undefined = undefined

  constructor(opening: HostFileOpening) {
    const { node, file, settings, direct, autoReadOnly } = opening
    this.#opening = opening
    this.#mode = { settings, direct, autoReadOnly }
    this.#plain = file
    this.hasZeroInit = file.kind === 'regular'
    this.zones = file.zones === undefined ? undefined : new DeviceZones(() => this.#plain, file.zones)
    this.direct = this.hasZeroInit ? new RegularFileData(node, file) : new DeviceData(node, file, direct)
    this.#locks = opening.locks ? new PermissionLocks(file, opening.path) : undefined
    this.flushPath = { flushToDisk: () => this.#sync() }
  }

  get file(): HostFile {
    return this.direct.file
  }

  get length(): number {
    return this.file.size()
  }

  refreshLimits(limits: BlockLimits): void {
    const { request, memory } = this.file.alignment
    limits.requestAlignment = request
    limits.minMemAlignment = memory
    limits.optMemAlignment = Math.max(memory, this.#opening.node.host.pageSize)
  }

  preparePermissions(perm: number, shared: number): Maybe<void> {
    const { node } = this.#opening
    const mode = this.#reopening ?? this.#mode
    const writable = node.flags.write && (!mode.autoReadOnly || (perm & writePermissions) !== 0)
    if (writable !== this.file.writable || mode.direct !== this.#mode.direct) {
      return this.#replaceFile(perm, shared, writable, mode.direct)
    }
    this.#locks?.prepare(perm, this.#effectivelyShared(shared))
  }

  /**
   * Opens the file again. The locks are taken on the descriptor in use first, where they are checked
   * against those of others, and then on the new one as well: at no moment is the file unlocked, and
   * nothing is checked while both descriptors hold locks, which would look like a conflict.
   */
  async #replaceFile(perm: number, shared: number, write: boolean, direct: boolean): Promise<void> {
    const { node, path } = this.#opening
    const file = await openPath(node.host.files, path, {
      write,
      direct,
      aio: this.#mode.settings.aio,
      noSync: node.noFlush,
    })
    try {
      if (file.stat().identity !== this.file.stat().identity) {
        throw blockError('ESTALE', `Could not reopen '${path}': it is another file now`)
      }
      if (write && file.kind !== 'regular' && isReadOnlyDevice(node.host.files, path)) {
        throw blockError('EACCES', 'The device is not writable')
      }
      this.#locks?.prepare(perm, this.#effectivelyShared(shared))
      this.#locks?.copyTo(file)
    } catch (error) {
      this.#locks?.abort()
      await file.close()
      throw error
    }
    this.#replacement = file
  }

  commitPermissions(perm: number, shared: number): void {
    const file = this.#replacement
    if (file !== undefined) {
      this.#replacement = undefined
      const old = this.file
      this.#use(file)
      this.#locks?.moveTo(file)
      closeLater(old)
    }
    this.#locks?.commit(perm, this.#effectivelyShared(shared))
  }

  abortPermissions(): void {
    const file = this.#replacement
    this.#replacement = undefined
    if (file !== undefined) {
      closeLater(file)
    }
    this.#locks?.abort()
  }

  #use(file: HostFile): void {
    this.#plain = file
    this.direct.file = this.#thread?.adopt(file) ?? file
  }

  detachAioContext(): void {
    this.#thread = undefined
    this.#use(this.#plain)
  }

  attachAioContext(context: AioContext): void {
    this.#thread = context.thread
    this.#use(this.#plain)
  }

  /** `force-share` promises nothing and so forbids others nothing. */
  #effectivelyShared(shared: number): number {
    return this.#opening.node.forceShare ? Perm.all : shared
  }

  /** Access and cache mode change with the descriptor, which is replaced when permissions are settled. */
  prepareReopen({ options, direct, autoReadOnly }: ReopenContext): ReopenPlan {
    const { settings } = this.#mode
    const given = takeOptions(options, reopenOptions)
    if (settings.aio === 'native' && !direct) {
      throw blockError(
        'EINVAL',
        'aio=native was specified, but it requires cache.direct=on, which was not specified.',
      )
    }
    this.#reopening = {
      settings: {
        ...settings,
        dropCache: given['drop-cache'] ?? true,
        checkCacheDropped: given['x-check-cache-dropped'] ?? false,
      },
      direct,
      autoReadOnly,
    }
    return {
      commit: () => {
        this.#mode = this.#reopening ?? this.#mode
        this.#reopening = undefined
        this.direct.setDirect(this.#mode.direct)
      },
      abort: () => {
        this.#reopening = undefined
      },
    }
  }

  async truncate(length: number, how: TruncateOptions): Promise<void> {
    if (this.file.kind === 'regular') {
      this.direct.forgetExtents(0, Number.MAX_SAFE_INTEGER)
      const { host } = this.#opening.node
      await resizeRegularFile(this.file, length, how.preallocation, (line) => {
        host.warn(line)
      })
    } else {
      resizeDevice(this.file.kind, this.length, length, how)
    }
  }

  allocatedSize(): number {
    return this.file.stat().allocated
  }

  statistics(): OptionTree {
    return this.direct.discards.stats()
  }

  info(): DriverInfo {
    return {}
  }

  copyRangeTo(
    offset: number,
    target: IoNode,
    targetOffset: number,
    bytes: number,
  ): Maybe<number | undefined> {
    const place = kernelCopyPlace(target instanceof BlockNode ? target.state : undefined, targetOffset, bytes)
    if (place?.file.writable !== true) {
      return undefined
    }
    const copied = this.file.copyTo(offset, place.file, place.offset, bytes)
    return typeof copied === 'object'
      ? copied.then((result) => copiedTo(place, target, result))
      : copiedTo(place, target, copied)
  }

  kernelCopyPlace(offset: number): KernelCopyPlace {
    return { node: this.#opening.node, data: this.direct, file: this.file, offset }
  }

  /** Another process has written: what the page cache holds may be old. */
  async invalidate(): Promise<undefined> {
    const { settings, direct } = this.#mode
    if (!settings.dropCache || direct) {
      return undefined
    }
    try {
      const wait = this.#sync()
      if (wait !== undefined) {
        await wait
      }
    } catch (error) {
      throw errnoError(codeOf(error), 'flush failed', { cause: error })
    }
    this.file.dropCache(0, this.length)
    this.direct.forgetExtents(0, Number.MAX_SAFE_INTEGER)
    if (settings.checkCacheDropped) {
      throw errnoError('ENOTSUP', 'mincore failed')
    }
    return undefined
  }

  /**
   * After a failed sync the kernel may have dropped the data and call the pages clean, so that a
   * second one would succeed without having written anything: every later flush must fail as well.
   */
  #sync(): Wait {
    if (this.#syncFailure !== undefined) {
      throw ioError(this.#syncFailure, { node: this.#opening.node.name, operation: 'flush' })
    }
    let wait: Wait
    try {
      wait = this.file.sync()
    } catch (error) {
      this.#noteSyncFailure(error)
      throw error
    }
    return wait?.catch((error: unknown) => {
      this.#noteSyncFailure(error)
      throw error
    })
  }

  #noteSyncFailure(error: unknown): void {
    if (!this.#mode.direct) {
      this.#syncFailure = codeOf(error)
    }
  }

  close(): Wait {
    this.abortPermissions()
    return this.file.close()
  }
}

/** Closing a descriptor that nothing uses any more; nobody could act on its failure. */
function closeLater(file: HostFile): void {
  void file.close()?.catch(codeOf)
}

/** Bookkeeping on the nodes below the one that the caller copies to, whose own is the caller's affair. */
function copiedTo(place: KernelCopyPlace, target: IoNode, copied: number | undefined): number | undefined {
  if (copied !== undefined && copied > 0) {
    place.data.forgetExtents(place.offset, copied)
    if (place.node !== target) {
      place.node.written(place.offset, copied)
    }
  }
  return copied
}
