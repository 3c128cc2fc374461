import { blockError } from '../errors/index.js'
import { type BlockLayer, isWellFormedId } from '../graph/index.js'
import type { OptionTree } from '../options/index.js'
import { type Clock, monotonicClock } from '../sched/index.js'
import { BlockJob, type BlockJobInfo } from './block-job.js'
import type { Job, JobHome, JobInfo } from './job.js'
import { accepts } from './states.js'

const registries = new WeakMap<BlockLayer, JobRegistry>()

/** The jobs of a layer. Events go to `layer.events`. */
export class JobRegistry implements JobHome {
  readonly layer: BlockLayer
  readonly #jobs = new Set<Job>()

  private constructor(layer: BlockLayer) {
    this.layer = layer
  }

  /** The one of `layer`. */
  static of(layer: BlockLayer): JobRegistry {
    const known = registries.get(layer)
    if (known !== undefined) {
      return known
    }
    const made = new JobRegistry(layer)
    registries.set(layer, made)
    return made
  }

  get clock(): Clock {
    return this.layer.host.clock ?? monotonicClock
  }

  emit(event: string, data: OptionTree): void {
    this.layer.events.emit(event, data)
  }

  /** Called by the job. */
  add(job: Job): void {
    if (!job.isInternal) {
      if (!isWellFormedId(job.id)) {
        throw blockError('EINVAL', `Invalid job ID '${job.id}'`)
      }
      if (this.find(job.id) !== undefined) {
        throw blockError('EINVAL', `Job ID '${job.id}' already in use`)
      }
    }
    this.#jobs.add(job)
  }

  /** Called by the job, when it is over. */
  remove(job: Job): void {
    this.#jobs.delete(job)
  }

  /** The newest first, internal ones too. */
  get jobs(): Job[] {
    return [...this.#jobs].reverse()
  }

  find(id: string): Job | undefined {
    for (const job of this.#jobs) {
      if (job.id === id && !job.isInternal) {
        return job
      }
    }
    return undefined
  }

  /** For the `job-*` commands. @throws BlockError `Job not found` */
  get(id: string): Job {
    const job = this.find(id)
    if (job === undefined) {
      throw blockError('ENOENT', 'Job not found')
    }
    return job
  }

  /** For the `block-job-*` commands. @throws BlockError `Block job '%s' not found`, class DeviceNotActive */
  getBlockJob(id: string): BlockJob {
    const job = this.find(id)
    if (!(job instanceof BlockJob)) {
      throw blockError('ENOENT', `Block job '${id}' not found`, { errorClass: 'DeviceNotActive' })
    }
    return job
  }

  /** `query-jobs`. */
  query(): JobInfo[] {
    return this.jobs.filter((job) => !job.isInternal).map((job) => job.info())
  }

  /** `query-block-jobs`. */
  queryBlockJobs(): BlockJobInfo[] {
    return this.jobs
      .filter((job): job is BlockJob => job instanceof BlockJob && !job.isInternal)
      .map((job) => job.blockInfo())
  }

  /** Cancels every job by force and waits until all are gone, also those that nobody has dismissed. */
  async cancelAll(): Promise<void> {
    for (const job of this.jobs) {
      job.cancelIfPossible()
      await job.wait().catch(() => undefined)
      if (accepts(job.status, 'dismiss')) {
        await job.dismiss()
      }
    }
  }
}
