import type { Job } from './job.js'
import { isCompleted } from './states.js'

/** Jobs that succeed together or fail together: none concludes before all have done their work. */
export class JobTransaction {
  /** The newest first. */
  #jobs: Job[] = []
  #aborting = false
  #finishing: Promise<void> | undefined = undefined

  /** @internal Called by the job. */
  add(job: Job): void {
    this.#jobs.unshift(job)
  }

  /** @internal */
  remove(job: Job): void {
    this.#jobs = this.#jobs.filter((other) => other !== job)
  }

  /** Whether the jobs are concluding: nothing can be cancelled any more. */
  get isFinishing(): boolean {
    return this.#finishing !== undefined
  }

  /** @internal `job` has done its work. */
  async succeeded(job: Job): Promise<void> {
    job.transition('waiting')
    if (this.#jobs.some(({ status }) => !isCompleted(status))) {
      return
    }
    for (const one of [...this.#jobs]) {
      one.becomePending()
    }
    if (this.#jobs.every(({ autoFinalize }) => autoFinalize)) {
      await this.finish()
    }
  }

  /** @internal Concludes all of them. Once is enough. */
  async finish(): Promise<void> {
    this.#finishing ??= this.#finish()
    await this.#finishing
  }

  async #finish(): Promise<void> {
    for (const one of [...this.#jobs]) {
      if (!(await one.prepare())) {
        await this.abort(one)
        return
      }
    }
    for (const one of [...this.#jobs]) {
      await one.conclude()
    }
  }

  /** @internal `job` has failed or was cancelled, and so are the others. */
  async abort(job: Job): Promise<void> {
    if (this.#aborting) {
      return
    }
    this.#aborting = true
    for (const other of this.#jobs) {
      if (other !== job) {
        other.requestCancel(true)
      }
    }
    for (let next = this.#jobs[0]; next !== undefined; next = this.#jobs[0]) {
      await next.untilCompleted()
      await next.conclude()
    }
  }
}
