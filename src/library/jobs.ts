import { blockError } from '../errors/index.js'
import { type BlockNode, backingChainNext, findBackingImage } from '../graph/index.js'
import {
  type BackupOptions,
  type BlockJob,
  createActiveCommit,
  createCommit,
  createMirror,
  createStream,
  type JobOnError,
  JobRegistry,
  type MirrorOptions,
  startBackups,
} from '../jobs/index.js'
import { type Image, type ImageName, type OpenImageOptions, openImage } from './image.js'

/** What all jobs on open images can be told. */
export interface ImageJobOptions {
  /** Default `job0`, `job1`, … */
  readonly jobId?: string | undefined
  /** Bytes per second; default 0: as fast as it goes. */
  readonly speed?: number | undefined
  /** Default true; else the job waits for `finalize()` when its work is done. */
  readonly autoFinalize?: boolean | undefined
  /** Default true; else the job stays until `dismiss()`. */
  readonly autoDismiss?: boolean | undefined
  /** Cancels the job. */
  readonly signal?: AbortSignal | undefined
}

/** Where a copy goes: an image that exists and that nobody else has open. */
export interface JobTarget {
  readonly target: ImageName
  readonly targetOptions?: Omit<OpenImageOptions, 'readOnly' | 'signal' | 'implicitFiles'> | undefined
}

type CopyOptions = 'sync' | 'onSourceError' | 'onTargetError'

export interface MirrorImageOptions
  extends ImageJobOptions,
    JobTarget,
    Partial<Pick<MirrorOptions, CopyOptions | 'granularity' | 'bufferBytes' | 'copyMode' | 'unmap'>> {}

export interface BackupImageOptions
  extends ImageJobOptions,
    JobTarget,
    Partial<Pick<BackupOptions, CopyOptions | 'bitmap' | 'bitmapMode' | 'compress'>> {}

export interface StreamImageOptions extends ImageJobOptions {
  /** Name of the backing file that stays; default: none does. */
  readonly base?: string | undefined
  readonly onError?: JobOnError | undefined
}

export interface CommitJobOptions extends ImageJobOptions {
  /** Name of the backing file that takes the data in; default: the next one. */
  readonly base?: string | undefined
  /** Name of the highest backing file to be taken out; default: the image itself is. */
  readonly top?: string | undefined
  readonly onError?: JobOnError | undefined
}

/**
 * Copies the image to `target` while it is in use, and keeps the two alike from `ready` on. `complete()`
 * puts the target in the place of what the image was; `cancel(false)` leaves it as a copy of that moment.
 *
 * @throws BlockError from opening the target, or if it cannot be used
 */
export async function mirror(image: Image, options: MirrorImageOptions): Promise<BlockJob> {
  const { sync = 'full', target: _target, targetOptions: _targetOptions, ...rest } = options
  const { node } = image
  return await withTarget(image, options, async (target) => {
    const job = await createMirror({ ...rest, ...common(node, options), node, target, sync })
    job.start()
    return job
  })
}

/**
 * Copies the image as it is now to `target`, while it goes on being written to.
 *
 * @throws BlockError from opening the target, or if it cannot be used
 */
export async function backup(image: Image, options: BackupImageOptions): Promise<BlockJob> {
  const { sync = 'full', target: _target, targetOptions: _targetOptions, ...rest } = options
  const { node } = image
  return await withTarget(image, options, async (target) => {
    const [job] = await startBackups([{ ...rest, ...common(node, options), node, target, sync }])
    return job as BlockJob
  })
}

/**
 * Copies what the backing files hold into the image, which does not need them any more then.
 *
 * @throws BlockError `Did not find '%s' in the backing chain of '%s'`
 */
export async function stream(image: Image, options: StreamImageOptions = {}): Promise<BlockJob> {
  const { node } = image
  const base = options.base === undefined ? undefined : below(node, options.base)
  const job = await createStream({ ...common(node, options), node, base, onError: options.onError })
  job.start()
  return watched(job, options)
}

/**
 * Copies what the image, or the backing file `top`, and those below it hold into `base`. Without `top` the
 * job gets ready and keeps up; `complete()` then puts the base in the place of the image.
 *
 * @throws BlockError `Image does not have a backing file`, `Did not find '%s' in the backing chain of '%s'`
 */
export async function commit(image: Image, options: CommitJobOptions = {}): Promise<BlockJob> {
  const { node } = image
  const top = options.top === undefined ? node : below(node, options.top)
  const base = options.base === undefined ? backingChainNext(top) : below(top, options.base)
  if (base === undefined) {
    throw blockError('ENOENT', 'Image does not have a backing file')
  }
  const request = { ...common(node, options), node, base, onError: options.onError }
  const job = top === node ? await createActiveCommit(request) : await createCommit({ ...request, top })
  job.start()
  return watched(job, options)
}

function below(node: BlockNode, name: string): BlockNode {
  const found = findBackingImage(node, name)
  if (found === undefined) {
    throw blockError('ENOENT', `Did not find '${name}' in the backing chain of '${node.filename}'`)
  }
  return found
}

function common(node: BlockNode, options: ImageJobOptions) {
  const { jobId, speed, autoFinalize, autoDismiss } = options
  return { jobId: jobId ?? freeId(node), speed, autoFinalize, autoDismiss }
}

function freeId(node: BlockNode): string {
  const jobs = JobRegistry.of(node.layer)
  let number = 0
  while (jobs.find(`job${number}`) !== undefined) {
    number++
  }
  return `job${number}`
}

/** Opens the target for a job, which has it to itself, and lets it go when the job is over. */
async function withTarget(
  image: Image,
  options: JobTarget & ImageJobOptions,
  start: (target: BlockNode) => Promise<BlockJob>,
): Promise<BlockJob> {
  const { layer } = image.node
  const opened = await openImage(layer, options.target, { ...options.targetOptions, readOnly: false })
  const target = layer.ref(opened.node)
  try {
    await opened.close()
    const job = await start(target)
    job.atEnd(() => layer.unref(target))
    return watched(job, options)
  } catch (error) {
    await layer.unref(target)
    throw error
  }
}

function watched(job: BlockJob, { signal }: ImageJobOptions): BlockJob {
  if (signal !== undefined) {
    const abort = (): void => {
      job.cancelIfPossible()
    }
    signal.addEventListener('abort', abort)
    job.atEnd(() => {
      signal.removeEventListener('abort', abort)
    })
    if (signal.aborted) {
      abort()
    }
  }
  return job
}
