import { type BlockError, blockError, ioError, isBlockError, strerror } from '../errors/index.js'
import type { OptionTree } from '../options/index.js'
import { type Clock, type Maybe, TimeSlice, type Wait } from '../sched/index.js'
import { JobProgress } from './progress.js'
import {
  accepts,
  checkVerb,
  isCompleted,
  type JobStatus,
  type JobType,
  type JobVerb,
  mayFollow,
} from './states.js'
import { JobTransaction } from './transaction.js'

/** What a kind of job does. `run` does the work; the rest is called at its moments, if it is there. */
export interface JobDriver {
  readonly type: JobType
  /** Does the work. It throws to fail, and returns early when {@link Job.isCancelled}. */
  run(job: Job): Promise<void>
  /** The job is about to rest: finish what is in flight. */
  pause?(job: Job): Wait
  /** It goes on. */
  resume?(job: Job): void
  /** A ready job is to come to its end. @throws BlockError to refuse */
  complete?(job: Job): Maybe<void>
  /** A cancel is asked for. Returns whether it is to be one by force, which fails the job. Default: always. */
  cancel?(job: Job, force: boolean): boolean
  /** All jobs of the transaction have done their work; the last chance to fail. */
  prepare?(job: Job): Maybe<void>
  /** After success, or failure; then in any case. */
  commit?(job: Job): Maybe<void>
  abort?(job: Job): Maybe<void>
  clean?(job: Job): Maybe<void>
}

/** Where jobs live: see JobRegistry. */
export interface JobHome {
  readonly clock: Clock
  emit(event: string, data: OptionTree): void
  /** @throws BlockError if the id is malformed or taken */
  add(job: Job): void
  remove(job: Job): void
}

export interface JobOptions {
  /** Undefined: an internal job, which nobody sees and which sends no events. */
  readonly id?: string | undefined
  /** Concludes without `finalize`; default true. */
  readonly autoFinalize?: boolean | undefined
  /** Goes away without `dismiss` once it is concluded; default true. */
  readonly autoDismiss?: boolean | undefined
  /** Jobs that fail or succeed together; default: the job alone. */
  readonly transaction?: JobTransaction | undefined
}

/** What the job waits for while it does nothing. */
type Rest = 'pause' | 'sleep' | 'yield'

/**
 * A long operation that can be paused, cancelled and watched (QAPI `Job`). Made in state `created`; goes
 * on from {@link start} by itself. Verbs throw BlockErrors with QEMU's texts.
 */
export class Job {
  readonly home: JobHome
  readonly driver: JobDriver
  /** Empty for internal jobs. */
  readonly id: string
  readonly autoFinalize: boolean
  readonly autoDismiss: boolean
  readonly progress = new JobProgress()
  readonly #slice = new TimeSlice()
  #transaction: JobTransaction | undefined
  #status: JobStatus = 'undefined'
  #error: BlockError | undefined = undefined
  /** One for each that wants it paused: the user, drains, and that it has not been started. */
  #pauseCount = 1
  #userPaused = false
  #cancelRequested = false
  #forceCancel = false
  #started = false
  #dismissal: Promise<void> | undefined = undefined
  /** The work is over, only the end is missing. */
  #workDone = false
  #busy = false
  #parked = false
  /** Parts of the work during which drains do not wait for it. */
  #changingGraph = 0
  #rest: { readonly kind: Rest; readonly wake: () => void } | undefined = undefined
  readonly #releases: (() => Maybe<void>)[] = []
  #quiet: (() => void)[] = []
  #over: (() => void)[] = []
  #completed: (() => void)[] = []

  /** @throws BlockError `Invalid job ID '%s'`, `Job ID '%s' already in use` */
  constructor(home: JobHome, driver: JobDriver, options: JobOptions = {}) {
    this.home = home
    this.driver = driver
    if (options.id === '') {
      // Internal jobs have none.
      throw blockError('EINVAL', "Invalid job ID ''")
    }
    this.id = options.id ?? ''
    this.autoFinalize = options.autoFinalize ?? true
    this.autoDismiss = options.autoDismiss ?? true
    home.add(this)
    this.#transaction = options.transaction ?? new JobTransaction()
    this.#transaction.add(this)
    this.transition('created')
  }

  get type(): JobType {
    return this.driver.type
  }

  get isInternal(): boolean {
    return this.id === ''
  }

  get status(): JobStatus {
    return this.#status
  }

  /** Why it failed; ECANCELED if it was cancelled. */
  get error(): BlockError | undefined {
    return this.#error
  }

  /** Whether the work was given up; a ready job that was only asked to stop is not. */
  get isCancelled(): boolean {
    return this.#cancelRequested && this.#forceCancel
  }

  /** Whether a cancel was asked for, by force or not. */
  get cancelRequested(): boolean {
    return this.#cancelRequested
  }

  get isReady(): boolean {
    return this.#status === 'ready' || this.#status === 'standby'
  }

  get isStarted(): boolean {
    return this.#started
  }

  get isUserPaused(): boolean {
    return this.#userPaused
  }

  /** Whether something wants it paused, even if it does not rest yet. */
  get pauseRequested(): boolean {
    return this.#pauseCount > 0
  }

  /** Whether it is at work, as opposed to waiting for time to pass, for a resume or for the user. */
  get isBusy(): boolean {
    return this.#busy
  }

  /** Settles when the job is concluded. @throws BlockError why it failed; ECANCELED after a cancel */
  async wait(): Promise<void> {
    if (this.#status !== 'concluded' && this.#status !== 'null') {
      await new Promise<void>((resolve) => {
        this.#over.push(resolve)
      })
    }
    if (this.#error !== undefined) {
      throw this.#error
    }
  }

  /** @internal */
  transition(to: JobStatus): void {
    const from = this.#status
    if (!mayFollow(from, to)) {
      throw new Error(`a job cannot go from '${from}' to '${to}'`)
    }
    this.#status = to
    if (from !== to && !this.isInternal) {
      this.home.emit('JOB_STATUS_CHANGE', { id: this.id, status: to })
    }
    if (isCompleted(to)) {
      for (const resolve of this.#completed.splice(0)) {
        resolve()
      }
    }
  }

  #check(verb: JobVerb): void {
    checkVerb(this.id, this.#status, verb)
  }

  /** @throws BlockError if the state of the job does not take the verb */
  checkVerb(verb: JobVerb): void {
    this.#check(verb)
  }

  /** Lets a created job begin. */
  start(): void {
    if (this.#started || this.#status !== 'created') {
      throw new Error('the job has been started')
    }
    this.#started = true
    this.#pauseCount--
    this.#busy = true
    this.transition('running')
    void this.#work()
  }

  async #work(): Promise<void> {
    try {
      await this.pausePoint()
      await this.driver.run(this)
    } catch (error) {
      this.fail(error)
    }
    this.#workDone = true
    this.#busy = false
    this.#becomeQuiet()
    await this.#complete()
  }

  /** @internal The job fails, for the first reason given. */
  fail(error: unknown): void {
    this.#error ??= isBlockError(error) ? error : blockError('EIO', strerror('EIO'), { cause: error })
  }

  async #complete(): Promise<void> {
    this.updateResult()
    const transaction = this.#transaction
    if (this.#error === undefined) {
      await transaction?.succeeded(this)
    } else {
      await transaction?.abort(this)
    }
  }

  /** @internal Failure and cancellation show in the state. */
  updateResult(): void {
    if (this.#error === undefined && this.isCancelled) {
      this.#error = ioError('ECANCELED')
    }
    if (this.#error !== undefined) {
      this.transition('aborting')
    }
  }

  // What users do with it.

  /** Stops at the next opportunity, until {@link resume}. @throws BlockError */
  pause(): void {
    this.#check('pause')
    if (this.#userPaused) {
      throw blockError('EINVAL', 'Job is already paused')
    }
    this.pauseForError()
  }

  /** @internal An error stops the job, whatever its state, until the user resumes it. */
  pauseForError(): void {
    if (!this.#userPaused) {
      this.#userPaused = true
      this.pauseInternally()
    }
  }

  /** @throws BlockError */
  resume(): void {
    if (!this.#userPaused || this.#pauseCount <= 0) {
      throw blockError('EINVAL', "Can't resume a job that was not paused")
    }
    this.#check('resume')
    this.userResumed()
    this.#userPaused = false
    this.resumeInternally()
  }

  /** The user has taken back a pause. */
  protected userResumed(): void {}

  /**
   * Gives the job up. Without `force` a ready job is only asked to come to its end as it is.
   *
   * @throws BlockError
   */
  cancel(force = true): void {
    this.#check('cancel')
    this.#cancel(force)
  }

  /** Gives the job up by force if it is not over, or as good as over. */
  cancelIfPossible(): void {
    if (accepts(this.#status, 'cancel')) {
      this.#cancel(true)
    }
  }

  #cancel(force: boolean): void {
    if (this.#transaction?.isFinishing === true) {
      // It has happened already, only not all of it.
      return
    }
    this.requestCancel(force)
    if (!this.#started) {
      void this.#complete()
    } else if (!this.#workDone) {
      this.enter()
    } else if (this.isCancelled) {
      void this.#transaction?.abort(this)
    }
  }

  /** @internal Notes that a cancel is wanted; the job hears of it when it is entered. */
  requestCancel(force: boolean): void {
    const byForce = this.driver.cancel?.(this, force) ?? true
    if (this.#userPaused) {
      this.userResumed()
      this.#userPaused = false
      this.#pauseCount--
    }
    // What is done already stays done if nobody insists.
    if (byForce || !this.#workDone) {
      this.#cancelRequested = true
      this.#forceCancel ||= byForce
    }
  }

  /**
   * Lets a ready job come to its end. Settles when the request is taken, not when the job is over.
   *
   * @throws BlockError
   */
  async complete(): Promise<void> {
    this.#check('complete')
    if (this.#cancelRequested || this.driver.complete === undefined) {
      throw blockError('EINVAL', `The active block job '${this.id}' cannot be completed`)
    }
    await this.driver.complete(this)
  }

  /** Lets pending jobs conclude, all of the transaction. Settles when they have. @throws BlockError */
  async finalize(): Promise<void> {
    this.#check('finalize')
    await this.#transaction?.finish()
  }

  /** Forgets a concluded job, which lets go of its nodes now. @throws BlockError */
  dismiss(): Maybe<void> {
    this.#check('dismiss')
    this.#dismissal ??= this.released()?.then(() => this.#dismiss())
    return this.#dismissal ?? this.#dismiss()
  }

  #dismiss(): void {
    this.#busy = false
    this.transition('null')
    this.home.remove(this)
  }

  /** @internal Gives an unstarted job up whose setting up has failed. */
  discard(): void {
    this.#transaction?.remove(this)
    this.#transaction = undefined
    this.#dismiss()
    this.progress.end()
  }

  // What the work itself calls.

  /** To be called now and then: rests while the job is paused. Nothing of the job may be in flight but what `driver.pause` ends. */
  pausePoint(): Wait {
    return this.#pauseCount === 0 || this.isCancelled ? undefined : this.#pause()
  }

  async #pause(): Promise<void> {
    const wait = this.driver.pause?.(this)
    if (wait !== undefined) {
      await wait
    }
    if (this.#pauseCount > 0 && !this.isCancelled) {
      const status = this.#status
      this.transition(status === 'ready' ? 'standby' : 'paused')
      this.#parked = true
      this.#becomeQuiet()
      while (this.#pauseCount > 0 && !this.isCancelled) {
        await this.#restUntilEntered('pause')
      }
      this.#parked = false
      this.transition(status)
    }
    this.driver.resume?.(this)
  }

  async #restUntilEntered(kind: Rest, nanoseconds?: number): Promise<void> {
    this.#busy = false
    let callOff: (() => void) | undefined
    await new Promise<void>((resolve) => {
      this.#rest = { kind, wake: resolve }
      if (nanoseconds !== undefined) {
        callOff = this.home.clock.after(nanoseconds, resolve)
      }
    })
    callOff?.()
    this.#rest = undefined
    this.#busy = true
  }

  /** Does nothing for that time, or until somebody wants something of the job. */
  async sleep(nanoseconds: number): Promise<void> {
    if (this.isCancelled) {
      return
    }
    if (this.#pauseCount === 0) {
      await this.#restUntilEntered('sleep', nanoseconds)
    }
    await this.pausePoint()
  }

  /** Does nothing until {@link enter}. */
  async yield(): Promise<void> {
    if (this.isCancelled) {
      return
    }
    if (this.#pauseCount === 0) {
      await this.#restUntilEntered('yield')
    }
    await this.pausePoint()
  }

  /** Gives others a turn when it is time, and rests if the job is paused. */
  breathe(): Wait {
    const turn = this.#slice.breathe()
    return turn === undefined ? this.pausePoint() : turn.then(() => this.pausePoint())
  }

  /** Ends the rest of a job that sleeps, yields or is paused, so that it looks what is new. */
  enter(): void {
    this.#rest?.wake()
  }

  /** Ends a sleep only. */
  protected enterIfAsleep(): void {
    if (this.#rest?.kind === 'sleep') {
      this.#rest.wake()
    }
  }

  /** Somebody wants it to rest; it takes as many {@link resumeInternally} to go on. */
  pauseInternally(): void {
    this.#pauseCount++
    this.enter()
  }

  resumeInternally(): void {
    if (--this.#pauseCount === 0 && this.#rest?.kind !== 'sleep') {
      this.enter()
    }
  }

  /** Settles when the job does nothing, after {@link pauseInternally}. */
  untilQuiet(): Wait {
    if (!this.#started || this.#parked || this.#workDone || this.#changingGraph > 0) {
      return undefined
    }
    return new Promise<void>((resolve) => {
      this.#quiet.push(resolve)
    })
  }

  #becomeQuiet(): void {
    for (const resolve of this.#quiet.splice(0)) {
      resolve()
    }
  }

  /** Runs a part of the work that drains nodes itself: nobody who drains waits for the job meanwhile. */
  async changingGraph<T>(body: () => Promise<T>): Promise<T> {
    this.#changingGraph++
    this.#becomeQuiet()
    try {
      return await body()
    } finally {
      this.#changingGraph--
    }
  }

  /** All is copied: from now on the job only keeps up, until `complete` or a cancel. */
  becomeReady(): void {
    this.transition('ready')
    this.announceReady()
  }

  protected announceReady(): void {}
  protected announceCancelled(): void {}
  protected announceCompleted(): void {}
  protected announcePending(): void {}

  // The end, in step with the other jobs of the transaction.

  /** @internal Settles when its work is over, one way or another. */
  async untilCompleted(): Promise<void> {
    if (!isCompleted(this.#status)) {
      await new Promise<void>((resolve) => {
        this.#completed.push(resolve)
        if (this.#started) {
          this.enter()
        } else {
          void this.#complete()
        }
      })
    }
  }

  /** @internal */
  becomePending(): void {
    this.transition('pending')
    if (!this.autoFinalize) {
      this.announcePending()
    }
  }

  /** @internal Returns whether it may still succeed. */
  async prepare(): Promise<boolean> {
    if (this.#error === undefined) {
      try {
        await this.driver.prepare?.(this)
      } catch (error) {
        this.fail(error)
      }
      this.updateResult()
    }
    return this.#error === undefined
  }

  /** @internal Commits or aborts, tells so, and concludes. */
  async conclude(): Promise<void> {
    this.updateResult()
    if (this.#error === undefined) {
      await this.#step(() => this.driver.commit?.(this))
    } else {
      await this.#step(() => this.driver.abort?.(this))
    }
    await this.#step(() => this.driver.clean?.(this))
    const dismiss = this.autoDismiss || !this.#started
    if (dismiss) {
      await this.#step(() => this.released())
    }
    for (const release of this.#releases.splice(0)) {
      await this.#step(release)
    }
    if (this.#started) {
      if (this.isCancelled) {
        this.announceCancelled()
      } else {
        this.announceCompleted()
      }
    }
    this.#transaction?.remove(this)
    this.#transaction = undefined
    this.transition('concluded')
    this.progress.end()
    if (dismiss) {
      this.#dismiss()
    }
    for (const resolve of this.#over.splice(0)) {
      resolve()
    }
  }

  /** Has `release` called at the end of the job, however it ends: what was lent to it is free again. */
  atEnd(release: () => Maybe<void>): void {
    if (this.#status === 'concluded' || this.#status === 'null') {
      void this.#step(release)
    } else {
      this.#releases.push(release)
    }
  }

  /** Lets go of what the job holds until it is dismissed. */
  protected released(): Wait {
    return undefined
  }

  async #step(run: () => Maybe<void>): Promise<void> {
    try {
      await run()
    } catch (error) {
      this.fail(error)
      if (mayFollow(this.#status, 'aborting')) {
        this.updateResult()
      }
    }
  }

  /** QAPI `JobInfo`, as `query-jobs` shows it. */
  info(): JobInfo {
    return {
      id: this.id,
      type: this.type,
      status: this.#status,
      'current-progress': this.progress.offset,
      'total-progress': this.progress.len,
      ...(this.#error === undefined ? {} : { error: this.#error.message }),
    }
  }
}

/** QAPI `JobInfo`. */
export interface JobInfo {
  readonly id: string
  readonly type: JobType
  readonly status: JobStatus
  readonly 'current-progress': number
  readonly 'total-progress': number
  readonly error?: string
}
