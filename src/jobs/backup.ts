import { blockError } from '../errors/index.js'
import { type BlockCopier, type CopyFault, isBlockCopier } from '../formatkit/filter/index.js'
import {
  type BlockNode,
  checkNotBlocked,
  type DirtyBitmap,
  deviceName,
  drain,
  isInserted,
  Perm,
  skipFilters,
} from '../graph/index.js'
import { BlockStatus } from '../io/index.js'
import type { Wait } from '../sched/index.js'
import type { BlockJob, BlockJobDriver, JobOnError } from './block-job.js'
import { CopyLanes } from './copy-lanes.js'
import { type CommonJobOptions, handleError, makeBlockJob, settled } from './copying.js'
import { dropFilter, insertFilter } from './filter-node.js'
import type { SyncMode } from './mirror.js'
import { JobTransaction } from './transaction.js'

/** QAPI `BitmapSyncMode`: when the bitmap begins anew. */
export const bitmapModes = ['on-success', 'never', 'always'] as const

export type BitmapMode = (typeof bitmapModes)[number]

export interface BackupOptions extends CommonJobOptions {
  readonly node: BlockNode
  /** Open for writing and as long as `node`. */
  readonly target: BlockNode
  /**
   * `full`: everything; `top`: what the image itself holds; `none`: only what the guest overwrites, until
   * the job is cancelled; `bitmap`: what is dirty in {@link bitmap}; `incremental`: the same with `on-success`.
   */
  readonly sync: SyncMode
  /** Name of a dirty bitmap of `node`. */
  readonly bitmap?: string | undefined
  readonly bitmapMode?: BitmapMode | undefined
  /** Write to the target with compression. */
  readonly compress?: boolean | undefined
  readonly onSourceError?: JobOnError | undefined
  readonly onTargetError?: JobOnError | undefined
  /** Requests in flight; default 16. */
  readonly maxWorkers?: number | undefined
  /** Largest request, bytes; default 0: 1 MiB, or a cluster. */
  readonly maxChunk?: number | undefined
}

const defaultWorkers = 16
const defaultChunk = 1 << 20

/**
 * A job that copies an image, as it is when the job is made, to another node (`blockdev-backup`,
 * `drive-backup`). What the guest overwrites is copied before. Created, not started.
 *
 * @throws BlockError with QEMU's text if the options make no sense or a node cannot be used
 */
export async function createBackup(given: BackupOptions): Promise<BlockJob> {
  const options = checked(given)
  const { node, target, transaction } = options
  checkNodes(options)
  const bitmap = options.bitmap === undefined ? undefined : wantedBitmap(options, options.bitmap)
  const section = await drain([node])
  let filter: BlockNode | undefined
  try {
    bitmap?.createSuccessor()
    filter = await insertFilter(node, 'copy-before-write', options.filterNodeName, { target: target.name })
    const copier = filter.state
    if (!isBlockCopier(copier)) {
      throw new Error('the filter of a backup does not copy')
    }
    checkChunk(options, copier)
    const driver = new Backup(options, filter, copier, bitmap)
    const main = filter
    return await makeBlockJob(node, driver, { ...options, transaction }, async (job) => {
      await job.addNode('main node', main, 0, Perm.all)
      await job.addNode('target', target, 0, Perm.all)
      copier.compress = options.compress === true
      copier.onCopied = (bytes) => {
        job.progress.update(bytes)
      }
      driver.chooseClusters()
    })
  } catch (error) {
    if (filter !== undefined) {
      await dropFilter(filter)
    }
    if (bitmap?.successor !== undefined) {
      bitmap.reclaim()
    }
    throw error
  } finally {
    section.end()
  }
}

/**
 * Backups of one or several images at the same moment, started. With `grouped` all of them fail if one does.
 *
 * @throws BlockError as {@link createBackup}; nothing has been started then
 */
export async function startBackups(
  backups: readonly BackupOptions[],
  completion: 'individual' | 'grouped' = 'individual',
): Promise<BlockJob[]> {
  const transaction = completion === 'grouped' ? new JobTransaction() : undefined
  const jobs: BlockJob[] = []
  const sections = []
  try {
    for (const { node } of backups) {
      sections.push(await drain([node]))
    }
    for (const backup of backups) {
      jobs.push(await createBackup(transaction === undefined ? backup : { ...backup, transaction }))
    }
  } catch (error) {
    for (const job of jobs) {
      job.cancel(true)
    }
    for (const job of jobs) {
      await job.wait().catch(() => undefined)
    }
    throw error
  } finally {
    for (const job of jobs.filter(({ status }) => status === 'created')) {
      job.start()
    }
    // As in QEMU they begin paused: the guests are held back until all of them stand.
    for (const section of sections) {
      section.end()
    }
  }
  return jobs
}

/** Puts `incremental` in other words. */
function checked(options: BackupOptions): BackupOptions {
  const { sync, bitmap, bitmapMode } = options
  if (bitmapMode !== undefined && bitmap === undefined) {
    throw blockError('EINVAL', 'Cannot specify bitmap sync mode without a bitmap')
  }
  if ((sync === 'bitmap' || sync === 'incremental') && bitmap === undefined) {
    throw blockError('EINVAL', `must provide a valid bitmap name for '${sync}' sync mode`)
  }
  if (sync !== 'incremental') {
    return options
  }
  if (bitmapMode !== undefined && bitmapMode !== 'on-success') {
    throw blockError('EINVAL', "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'")
  }
  return { ...options, sync: 'bitmap', bitmapMode: 'on-success' }
}

function wantedBitmap({ node, sync, bitmapMode }: BackupOptions, name: string): DirtyBitmap {
  const bitmap = node.dirtyBitmaps.find(name)
  if (bitmap === undefined) {
    throw blockError('ENOENT', `Bitmap '${name}' could not be found`)
  }
  if (bitmapMode === undefined) {
    throw blockError('EINVAL', 'Bitmap sync mode must be given when providing a bitmap')
  }
  bitmap.check({ readonly: true })
  if (sync === 'none') {
    throw blockError('EINVAL', `sync mode '${sync}' does not produce meaningful bitmap outputs`)
  }
  if (bitmapMode === 'never' && sync !== 'bitmap') {
    throw blockError(
      'EINVAL',
      `Bitmap sync mode '${bitmapMode}' has no meaningful effect when combined with sync mode '${sync}'`,
    )
  }
  if (bitmapMode !== 'never') {
    bitmap.check()
  }
  return bitmap
}

function checkNodes({ node, target, compress }: BackupOptions): void {
  if (node === target) {
    throw blockError('EINVAL', 'Source and target cannot be the same')
  }
  for (const one of [node, target]) {
    if (one.driver === undefined || !isInserted(one)) {
      throw blockError('ENOMEDIUM', `Device is not inserted: ${one.name}`)
    }
  }
  if (compress === true && !target.canWriteCompressed) {
    throw blockError('EINVAL', `Compression is not supported for this drive ${deviceName(target)}`)
  }
  checkNotBlocked(node, 'backup-source')
  checkNotBlocked(target, 'backup-target')
  if (node.length !== target.length) {
    throw blockError('EINVAL', 'Source and target image have different sizes')
  }
}

function checkChunk({ maxChunk = 0, maxWorkers = defaultWorkers }: BackupOptions, copier: BlockCopier): void {
  if (!(maxWorkers >= 1 && maxWorkers <= 0x7fffffff)) {
    throw blockError('EINVAL', 'max-workers must be between 1 and 2147483647')
  }
  if (maxChunk < 0) {
    throw blockError('EINVAL', 'max-chunk must be zero (which means no limit) or positive')
  }
  if (maxChunk > 0 && maxChunk < copier.clusterSize) {
    throw blockError(
      'EINVAL',
      `Required max-chunk (${maxChunk}) is less than backup cluster size (${copier.clusterSize})`,
    )
  }
}

class Backup implements BlockJobDriver {
  readonly type = 'backup'
  readonly #options: BackupOptions
  #filter: BlockNode | undefined
  readonly #copier: BlockCopier
  #bitmap: DirtyBitmap | undefined
  #lanes: CopyLanes | undefined = undefined
  /** Where the next request begins, bytes. */
  #cursor = 0

  constructor(
    options: BackupOptions,
    filter: BlockNode,
    copier: BlockCopier,
    bitmap: DirtyBitmap | undefined,
  ) {
    this.#options = options
    this.#filter = filter
    this.#copier = copier
    this.#bitmap = bitmap
  }

  /** Before the guest may write again: what is not part of the backup is not copied. */
  chooseClusters(): void {
    const { sync } = this.#options
    const { todo } = this.#copier
    if (sync === 'bitmap' && this.#bitmap !== undefined) {
      todo.clear()
      todo.merge(this.#bitmap.bits)
    }
    this.#copier.skipUnallocated = sync === 'top'
  }

  async run(job: BlockJob): Promise<void> {
    const { sync } = this.#options
    const { todo } = this.#copier
    job.progress.setRemaining(todo.count)
    if (sync === 'none') {
      while (!job.isCancelled) {
        await job.yield()
      }
      return
    }
    if (sync === 'top') {
      await this.#skipUnallocated(job)
    }
    const { maxWorkers = defaultWorkers } = this.#options
    const lanes = new CopyLanes(Math.min(maxWorkers, defaultWorkers))
    this.#lanes = lanes
    try {
      for (;;) {
        await job.breathe()
        if (job.isCancelled) {
          return
        }
        const fault = lanes.takeFault()
        if (fault !== undefined) {
          this.#handle(job, fault)
          continue
        }
        const area = this.#nextArea()
        if (area === undefined) {
          if (!lanes.isIdle) {
            await lanes.oneFinished()
            continue
          }
          break
        }
        if (lanes.isFull) {
          await lanes.oneFinished()
          continue
        }
        this.#cursor = area.offset + area.bytes
        job.moved(area.bytes)
        lanes.start(() => this.#copier.copy(area.offset, area.bytes))
      }
    } finally {
      await lanes.allFinished()
    }
    await this.#flushTarget(job)
  }

  /** What is to be copied next. In flight is what lies before the cursor; it may have to be done again. */
  #nextArea(): { offset: number; bytes: number } | undefined {
    const { todo, clusterSize } = this.#copier
    const { maxChunk = 0 } = this.#options
    const limit = maxChunk > 0 ? Math.min(maxChunk, defaultChunk) : defaultChunk
    const bytes = Math.max(clusterSize, limit - (limit % clusterSize))
    const next = todo.nextDirtyArea(this.#cursor, undefined, bytes)
    if (next !== undefined) {
      return next
    }
    if (this.#lanes?.isIdle !== false && this.#cursor > 0) {
      this.#cursor = 0
      return todo.nextDirtyArea(0, undefined, bytes)
    }
    return undefined
  }

  #handle(job: BlockJob, fault: CopyFault): void {
    const { onSourceError = 'report', onTargetError = 'report' } = this.#options
    handleError(job, fault.reading ? onSourceError : onTargetError, fault.reading, fault.error)
  }

  async #flushTarget(job: BlockJob): Promise<void> {
    const { target } = this.#options
    for (;;) {
      try {
        await settled(target.flush())
        return
      } catch (error) {
        this.#handle(job, { error, reading: false })
      }
      await job.breathe()
      if (job.isCancelled) {
        return
      }
    }
  }

  pause(): Wait {
    return this.#lanes?.allFinished()
  }

  /** Takes out what the image itself does not hold. */
  async #skipUnallocated(job: BlockJob): Promise<void> {
    const image = skipFilters(this.#options.node)
    const { todo, clusterSize } = this.#copier
    const status = new BlockStatus()
    for (let at = 0; image !== undefined && at < todo.size && !job.isCancelled; ) {
      await settled(image.status(at, todo.size - at, 'allocation', status))
      const { bytes, allocated } = status
      if (bytes === 0) {
        break
      }
      if (!allocated) {
        // Clusters that are allocated in part are copied.
        const start = Math.ceil(at / clusterSize) * clusterSize
        const end = at + bytes === todo.size ? todo.size : at + bytes - ((at + bytes) % clusterSize)
        if (start < end) {
          todo.reset(start, end - start)
        }
      }
      at += bytes
      job.progress.setRemaining(todo.count)
      await job.breathe()
    }
    this.#copier.skipUnallocated = false
  }

  /** The bitmap begins anew with what was written since, or takes that in and stays as it was. */
  #settleBitmap(succeeded: boolean): void {
    const bitmap = this.#bitmap
    this.#bitmap = undefined
    if (bitmap?.successor === undefined) {
      return
    }
    const { bitmapMode } = this.#options
    if (bitmapMode === 'never' || (!succeeded && bitmapMode !== 'always')) {
      bitmap.reclaim()
      return
    }
    const fresh = bitmap.abdicate()
    if (!succeeded) {
      // What was not copied is still to be copied next time.
      fresh.bits.merge(this.#copier.todo)
    }
  }

  commit(): void {
    this.#settleBitmap(true)
  }

  abort(): void {
    this.#settleBitmap(false)
  }

  async clean(job: BlockJob): Promise<void> {
    const filter = this.#filter
    if (filter !== undefined) {
      this.#filter = undefined
      this.#copier.onCopied = undefined
      await job.removeAllNodes()
      await dropFilter(filter)
    }
  }
}
