import { isPowerOfTwo } from '../bytes/index.js'
import { blockError } from '../errors/index.js'
import {
  type BlockNode,
  backingChainNext,
  chainContains,
  checkChainNotFrozen,
  checkNotBlocked,
  checkToReplaceNode,
  type DirtyBitmap,
  type DrainedSection,
  defaultBitmapGranularity,
  drain,
  freezeChain,
  openBackingFile,
  Perm,
  recurseCanReplace,
  refreshPermissions,
  reopenSetReadOnly,
  replaceNode,
  setBacking,
  skipFilters,
  truncateNode,
  unfreezeChain,
} from '../graph/index.js'
import { ChainStatus, chainStatus, ReqFlags } from '../io/index.js'
import { OptionDict } from '../options/index.js'
import type { BlockJob, BlockJobDriver, JobOnError } from './block-job.js'
import { checkCommitAllowed } from './commit.js'
import { type CommonJobOptions, makeBlockJob } from './copying.js'
import { appendJobFilter } from './filter-node.js'
import { MirrorCopy } from './mirror-copy.js'
import { type MirrorTop, mirrorTop } from './mirror-filter.js'
import { nextBelow } from './stream.js'

/** QAPI `MirrorSyncMode`. */
export const syncModes = ['top', 'full', 'none', 'incremental', 'bitmap'] as const

export type SyncMode = (typeof syncModes)[number]

/** QAPI `MirrorCopyMode`. */
export type MirrorCopyMode = 'background' | 'write-blocking'

export interface MirrorOptions extends CommonJobOptions {
  readonly node: BlockNode
  /** Open for writing, with nobody else writing to it. */
  readonly target: BlockNode
  /** `full`: everything; `top`: what the image itself holds; `none`: only what is written from now on. */
  readonly sync: SyncMode
  /** Bytes; a power of two. Default: the target's cluster size within 4 KiB and 64 KiB. */
  readonly granularity?: number | undefined
  /** Bytes in flight; default 10 MiB. */
  readonly bufferBytes?: number | undefined
  /** Default `background`. */
  readonly copyMode?: MirrorCopyMode | undefined
  /** Name of the node that the target takes the place of; default: the source. */
  readonly replaces?: string | undefined
  /** Deallocate in the target what is zero; default true. */
  readonly unmap?: boolean | undefined
  readonly onSourceError?: JobOnError | undefined
  readonly onTargetError?: JobOnError | undefined
  /**
   * What the target's backing file becomes: that of the source, the one its image names, or what it is
   * (default).
   */
  readonly backing?: 'source' | 'open' | 'leave' | undefined
  /** Whether the target must be made zero first; default: with `full`. */
  readonly zeroTarget?: boolean | undefined
}

export interface ActiveCommitOptions extends CommonJobOptions {
  readonly node: BlockNode
  /** The image below that takes the data in, and the place of `node` in the end. */
  readonly base: BlockNode
  /** Default `report`. */
  readonly onError?: JobOnError | undefined
}

const defaultBufferBytes = 10 << 20
/** Nanoseconds between looks for new work while there is none. */
const idleTime = 100e6

/**
 * A job that copies an image to another node and keeps the two alike until it is completed; the target
 * then takes the place of the source (`blockdev-mirror`, `drive-mirror`). Created, not started.
 *
 * @throws BlockError `Sync mode '%s' not supported`, `Can't mirror node into itself`, `Invalid parameter
 *   'buf-size'`, or if permissions conflict
 */
export async function createMirror(options: MirrorOptions): Promise<BlockJob> {
  const { node, sync } = options
  if (sync === 'incremental' || sync === 'bitmap') {
    throw blockError('EINVAL', `Sync mode '${sync}' not supported`)
  }
  checkMirror(options)
  return await create({
    common: options,
    type: 'mirror',
    node,
    target: options.target,
    base: sync === 'top' ? backingChainNext(node) : undefined,
    copyNothing: sync === 'none',
    granularity: options.granularity,
    bufferBytes: options.bufferBytes ?? 0,
    active: options.copyMode === 'write-blocking',
    replaces: options.replaces,
    unmap: options.unmap ?? true,
    onSourceError: options.onSourceError ?? 'report',
    onTargetError: options.onTargetError ?? 'report',
    backing: options.backing ?? 'leave',
    zeroTarget: options.zeroTarget ?? sync === 'full',
    baseWasReadOnly: false,
  })
}

const granularities = { least: 512, most: 64 << 20 }

function checkMirror({ node, target, granularity, replaces }: MirrorOptions): void {
  if (granularity !== undefined) {
    if (granularity < granularities.least || granularity > granularities.most) {
      throw blockError('EINVAL', "Parameter 'granularity' expects a value in range [512B, 64MB]")
    }
    if (!isPowerOfTwo(granularity)) {
      throw blockError('EINVAL', "Parameter 'granularity' expects a power of 2")
    }
  }
  checkNotBlocked(node, 'mirror-source')
  checkNotBlocked(target, 'mirror-target')
  if (replaces !== undefined && checkToReplaceNode(node, replaces).length !== node.length) {
    throw blockError('EINVAL', 'cannot replace image with a mirror image of different size')
  }
}

/**
 * A job that copies what the active image and those below it hold into `base`, keeps it up to date, and
 * puts it in the place of the active image when it is completed (`block-commit` of the active image).
 *
 * @throws BlockError as {@link createMirror} and from making the base writable
 */
export async function createActiveCommit(options: ActiveCommitOptions): Promise<BlockJob> {
  const { node, base, onError = 'report' } = options
  checkCommitAllowed(node, node, base)
  const baseWasReadOnly = base.readOnly
  if (baseWasReadOnly) {
    await reopenSetReadOnly(base, false)
  }
  try {
    return await create({
      common: options,
      type: 'commit',
      node,
      target: base,
      base,
      copyNothing: false,
      granularity: undefined,
      bufferBytes: 0,
      active: false,
      replaces: undefined,
      unmap: true,
      onSourceError: onError,
      onTargetError: onError,
      backing: 'leave',
      zeroTarget: false,
      baseWasReadOnly,
    })
  } catch (error) {
    if (baseWasReadOnly) {
      await reopenSetReadOnly(base, true)
    }
    throw error
  }
}

interface Settings {
  readonly common: CommonJobOptions
  readonly type: 'mirror' | 'commit'
  readonly node: BlockNode
  readonly target: BlockNode
  /** What this node and those below it hold is not copied. */
  readonly base: BlockNode | undefined
  readonly copyNothing: boolean
  readonly granularity: number | undefined
  readonly bufferBytes: number
  readonly active: boolean
  readonly replaces: string | undefined
  readonly unmap: boolean
  readonly onSourceError: JobOnError
  readonly onTargetError: JobOnError
  readonly backing: 'source' | 'open' | 'leave'
  readonly zeroTarget: boolean
  readonly baseWasReadOnly: boolean
}

async function create(settings: Settings): Promise<BlockJob> {
  const { node, target, bufferBytes } = settings
  const granularity = settings.granularity ?? defaultBitmapGranularity(target)
  if (bufferBytes < 0) {
    throw blockError('EINVAL', "Invalid parameter 'buf-size'")
  }
  if (skipFilters(node) === skipFilters(target)) {
    throw blockError('EINVAL', "Can't mirror node into itself")
  }
  const targetIsBacking = chainContains(node, target)
  if (!targetIsBacking && chainContains(node, skipFilters(target))) {
    throw blockError('EINVAL', "Cannot mirror to a filter on top of a node in the source's backing chain")
  }
  if (targetIsBacking) {
    checkChainNotFrozen(node, target)
  }
  const filter = await appendJobFilter(node.layer, node, mirrorTop, settings.common.filterNodeName, true)
  const top = filter.state as MirrorTop
  let frozen = false
  let bitmap: DirtyBitmap | undefined
  try {
    if (targetIsBacking) {
      top.isCommit = true
      await refreshPermissions([filter])
      freezeChain(filter, target)
      frozen = true
    }
    bitmap = filter.dirtyBitmaps.create({ granularity })
    // The filter itself notes what is written.
    bitmap.disable()
    const driver = new Mirror(settings, filter, top, bitmap, targetIsBacking)
    return await makeBlockJob(node, driver, settings.common, async (job) => {
      const shared = Perm.consistentRead | Perm.writeUnchanged | Perm.write
      await job.addNode('main node', filter, Perm.consistentRead, shared)
      await addTarget(job, settings, targetIsBacking)
      await job.addNode('source', node, 0, shared)
      if (targetIsBacking) {
        await addIntermediates(job, node, target)
      }
      driver.attach(job)
    })
  } catch (error) {
    top.onWrite = undefined
    if (frozen) {
      unfreezeChain(filter, target)
    }
    bitmap?.release()
    await replaceNode(filter, node)
    await node.layer.unref(filter)
    throw error
  }
}

async function addTarget(job: BlockJob, { node, target }: Settings, isBacking: boolean): Promise<void> {
  let perm: number = Perm.write
  let shared: number = Perm.writeUnchanged
  if (isBacking) {
    if (target.length < node.length) {
      perm |= Perm.resize
    }
    shared |= Perm.consistentRead | Perm.write
  }
  await job.addDevice(target, perm, shared)
  await job.addNode('target', target, 0, Perm.all)
}

async function addIntermediates(job: BlockJob, node: BlockNode, target: BlockNode): Promise<void> {
  const image = skipFilters(target)
  let shared: number = Perm.writeUnchanged | Perm.write
  for (let at = nextBelow(node); at !== undefined && at !== target; at = nextBelow(at)) {
    if (at.isFilter && skipFilters(at) === image) {
      shared |= Perm.consistentRead
    }
    await job.addNode('intermediate node', at, 0, shared)
  }
}

class Mirror implements BlockJobDriver {
  readonly type: 'mirror' | 'commit'
  readonly #settings: Settings
  #filter: BlockNode | undefined
  readonly #top: MirrorTop
  readonly #bitmap: DirtyBitmap
  readonly #targetIsBacking: boolean
  #copy: MirrorCopy | undefined = undefined
  #shouldComplete = false
  #replaced: BlockNode | undefined = undefined
  readonly #replaceBlocker = { message: 'block device is in use by block-job-complete' }
  /** Held from the moment the two are alike until the graph is changed. */
  #section: DrainedSection | undefined = undefined

  constructor(
    settings: Settings,
    filter: BlockNode,
    top: MirrorTop,
    bitmap: DirtyBitmap,
    targetIsBacking: boolean,
  ) {
    this.type = settings.type
    this.#settings = settings
    this.#filter = filter
    this.#top = top
    this.#bitmap = bitmap
    this.#targetIsBacking = targetIsBacking
  }

  /** From now on the guest's writes are noted. */
  attach(job: BlockJob): void {
    const { node, target, bufferBytes, unmap, onSourceError, onTargetError } = this.#settings
    const { granularity } = this.#bitmap
    // A target that has its backing file only later must not fill up its clusters from nowhere.
    const fillsUp = target.backingFile !== '' && backingChainNext(target) === undefined
    const alignment = fillsUp ? Math.max(granularity, target.clusterSize) : granularity
    const copy = new MirrorCopy(job, {
      source: node,
      target,
      bitmap: this.#bitmap,
      bufferBytes: Math.max(bufferBytes === 0 ? defaultBufferBytes : bufferBytes, alignment),
      alignment,
      unmap,
      onSourceError,
      onTargetError,
    })
    this.#copy = copy
    this.#top.onWrite = (write) => copy.background(write)
    this.#top.onEarlyWrite = (offset, bytes) => {
      copy.markDirty(offset, bytes)
    }
  }

  async run(job: BlockJob): Promise<void> {
    const copy = this.#copy
    if (copy === undefined || job.isCancelled) {
      return
    }
    const { node, target } = this.#settings
    const { length } = node
    try {
      if (this.#targetIsBacking && target.length < length) {
        const exact = { exact: false, preallocation: 'off', zero: false } as const
        await job.changingGraph(() => truncateNode(target, length, exact))
      }
      if (length === 0) {
        job.becomeReady()
        while (!job.cancelRequested && !this.#shouldComplete) {
          await job.yield()
        }
        return
      }
      if (!this.#settings.copyNothing) {
        await this.#markInitial(job, copy)
      }
      if (this.#settings.active) {
        this.#top.onWrite = (write) =>
          job.isCancelled || copy.failure !== undefined ? copy.background(write) : copy.active(write)
      }
      while (!(await this.#step(job, copy))) {
        // Each step says whether it was the last one.
      }
    } finally {
      await copy.allFinished()
      await this.#hold(job)
    }
  }

  /** Holds back the guest. */
  async #hold(job: BlockJob): Promise<void> {
    this.#section ??= await job.changingGraph(() => drain([this.#settings.node]))
  }

  #release(): void {
    this.#section?.end()
    this.#section = undefined
  }

  /** Returns whether the two are alike and the guest is held back, or the job was cancelled. */
  async #step(job: BlockJob, copy: MirrorCopy): Promise<boolean> {
    if (copy.failure !== undefined) {
      throw copy.failure
    }
    await job.breathe()
    if (job.isCancelled) {
      return true
    }
    const dirty = this.#bitmap.count
    job.progress.setRemaining(copy.remaining)
    if (copy.isFull || (dirty === 0 && copy.inFlight > 0)) {
      await copy.oneFinished()
      return false
    }
    if (dirty > 0) {
      await copy.startOne()
      return false
    }
    if (!job.isReady) {
      if (!(await copy.flush()) || this.#bitmap.count > 0 || job.isCancelled) {
        return false
      }
      job.becomeReady()
    }
    if (this.#shouldComplete || job.cancelRequested) {
      await this.#hold(job)
      if (this.#bitmap.count === 0 && copy.failure === undefined && (await copy.flush())) {
        job.progress.setRemaining(0)
        return true
      }
      this.#release()
      return false
    }
    await job.sleep(idleTime)
    return false
  }

  /** Marks everything that is to be copied. */
  async #markInitial(job: BlockJob, copy: MirrorCopy): Promise<void> {
    const { node, target, base } = this.#settings
    const { length } = node
    const bitmap = this.#bitmap
    if (this.#settings.zeroTarget) {
      const canUnmap = target.unmapAllowed && (target.supportedZeroFlags & ReqFlags.mayUnmap) !== 0
      if (!canUnmap) {
        bitmap.set(0, length)
        return
      }
      await copy.zeroTarget(length)
    }
    const status = new ChainStatus()
    for (let at = 0; at < length && !job.isCancelled; at += status.bytes) {
      await chainStatus(node, base, at, length - at, 'allocation', status)
      if (status.bytes === 0) {
        status.bytes = length - at
        status.allocated = true
      }
      if (status.allocated) {
        bitmap.set(at, status.bytes)
      }
      await job.breathe()
    }
  }

  async pause(): Promise<void> {
    await this.#copy?.allFinished()
  }

  complete(job: BlockJob): void {
    const { replaces, node } = this.#settings
    if (replaces !== undefined && this.#replaced === undefined) {
      const replaced = node.layer.findNode(replaces)
      if (replaced === undefined) {
        throw blockError('ENODEV', `Node name '${replaces}' not found`)
      }
      replaced.opBlockers.blockAll(this.#replaceBlocker)
      this.#replaced = node.layer.ref(replaced)
    }
    this.#shouldComplete = true
    if (!job.pauseRequested) {
      job.enter()
    }
  }

  cancel(job: BlockJob, force: boolean): boolean {
    return force || !job.isReady
  }

  async prepare(job: BlockJob): Promise<void> {
    await this.#exit(job, false)
  }

  async abort(job: BlockJob): Promise<void> {
    await this.#exit(job, true)
  }

  /** Takes the filter out, with the target in the place of the source if that is wanted. */
  async #exit(job: BlockJob, aborting: boolean): Promise<void> {
    const filter = this.#filter
    if (filter === undefined) {
      return
    }
    this.#filter = undefined
    const { node, target, baseWasReadOnly } = this.#settings
    const { layer } = node
    const held = [node, target].map((one) => layer.ref(one))
    await this.#hold(job)
    const section = await drain([target])
    let pivoted = false
    try {
      if (this.#targetIsBacking) {
        unfreezeChain(filter, target)
      }
      this.#top.onWrite = undefined
      this.#top.onEarlyWrite = undefined
      this.#bitmap.release()
      try {
        await job.removeNode(job.devices[0])
        this.#top.stopped = true
        await refreshPermissions([filter])
        if (!aborting) {
          await this.#setBacking()
          if (this.#shouldComplete) {
            await this.#pivot(this.#replaced ?? node)
            pivoted = true
          }
        }
      } finally {
        this.#replaced?.opBlockers.unblockAll(this.#replaceBlocker)
        await layer.unref(this.#replaced)
        await job.removeAllNodes()
        const below = filter.filterNode
        if (below !== undefined) {
          await replaceNode(filter, below)
        }
        // Also after a soft cancel, where QEMU forgets it.
        if (baseWasReadOnly && !pivoted && !target.readOnly) {
          await reopenSetReadOnly(target, true)
        }
      }
    } finally {
      section.end()
      this.#release()
      await layer.unref(filter)
      for (const one of held) {
        await layer.unref(one)
      }
    }
  }

  async #setBacking(): Promise<void> {
    const { node, target, backing, copyNothing, base } = this.#settings
    const image = skipFilters(target)
    if (image === undefined) {
      return
    }
    if (backing === 'source') {
      const wanted = copyNothing ? node : base
      if (image.backing !== wanted) {
        await setBacking(image, wanted)
      }
    } else if (backing === 'open' && backingChainNext(target) === undefined) {
      image.flags.noBacking = false
      await openBackingFile(image, new OptionDict())
    }
  }

  async #pivot(replaced: BlockNode): Promise<void> {
    const { node, target } = this.#settings
    if (replaced.readOnly !== target.readOnly) {
      await reopenSetReadOnly(target, replaced.readOnly)
    }
    if (!recurseCanReplace(node, replaced)) {
      throw blockError(
        'EINVAL',
        `Can no longer replace '${replaced.name}' by '${target.name}', because it can no longer be ` +
          'guaranteed that doing so would not lead to an abrupt change of visible data',
      )
    }
    await replaceNode(replaced, target)
  }
}
