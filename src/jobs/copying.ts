import { codeOf, type ErrnoName, ioError } from '../errors/index.js'
import type { BlockNode } from '../graph/index.js'
import type { Wait } from '../sched/index.js'
import { BlockJob, type BlockJobDriver, type BlockJobOptions, type JobOnError } from './block-job.js'
import { JobRegistry } from './registry.js'
import type { JobTransaction } from './transaction.js'

/** What all jobs on nodes can be told. */
export interface CommonJobOptions {
  /** Undefined: an internal job, which sends no events and which nobody can look up. */
  readonly jobId?: string | undefined
  /** Bytes per second; default 0: as fast as it goes. */
  readonly speed?: number | undefined
  /** Default true: concludes by itself. */
  readonly autoFinalize?: boolean | undefined
  /** Default true: goes away by itself. */
  readonly autoDismiss?: boolean | undefined
  /** Jobs that succeed or fail together. */
  readonly transaction?: JobTransaction | undefined
  /** Name of the filter node that the job puts into the graph; default: generated. */
  readonly filterNodeName?: string | undefined
}

/** Waits for what a node says about a request, and gives its error as the bare errno that jobs report. */
export async function settled(wait: Wait): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}

/** Errors of requests end a job under the plain name of the errno. */
export function jobIoError(error: unknown): Error {
  return ioError(codeOf(error))
}

/** Throws unless the job may go on after an error: `ignore`, and `stop` once it is resumed. */
export function handleError(
  job: BlockJob,
  policy: JobOnError,
  isRead: boolean,
  error: unknown,
): 'ignore' | 'stop' {
  const code: ErrnoName = codeOf(error)
  const action = job.errorAction(policy, isRead, code)
  if (action === 'report') {
    throw ioError(code)
  }
  return action
}

/** Makes a job on `node`'s layer, lets `setUp` give it its nodes, and takes it back if that fails. */
export async function makeBlockJob(
  node: BlockNode,
  driver: BlockJobDriver,
  options: CommonJobOptions,
  setUp: (job: BlockJob) => Promise<void>,
): Promise<BlockJob> {
  const job = new BlockJob(JobRegistry.of(node.layer), driver, blockJobOptions(options))
  try {
    await setUp(job)
  } catch (error) {
    await job.removeAllNodes()
    job.discard()
    throw error
  }
  return job
}

function blockJobOptions(options: CommonJobOptions): BlockJobOptions {
  const { jobId, speed, autoFinalize, autoDismiss, transaction } = options
  return { id: jobId, speed, autoFinalize, autoDismiss, transaction }
}
