import { blockError, type ErrnoName } from '../errors/index.js'
import {
  attachEdge,
  BlockChild,
  type BlockNode,
  detachEdge,
  deviceName,
  type EdgeParent,
  type IoStatus,
  settlePermissions,
} from '../graph/index.js'
import type { Wait } from '../sched/index.js'
import { Job, type JobDriver, type JobHome, type JobOptions } from './job.js'
import { RateLimiter } from './rate-limiter.js'
import type { JobStatus, JobType } from './states.js'

/** QAPI `BlockdevOnError`. */
export const onErrorWords = ['report', 'ignore', 'enospc', 'stop', 'auto'] as const

export type JobOnError = (typeof onErrorWords)[number]

/** What is done about an error (QAPI `BlockErrorAction`). */
export type JobErrorAction = 'report' | 'ignore' | 'stop'

/** QAPI `BlockJobInfo`. Sizes are bytes, the speed bytes per second. */
export interface BlockJobInfo {
  readonly type: JobType
  readonly device: string
  readonly len: number
  readonly offset: number
  readonly busy: boolean
  readonly paused: boolean
  readonly speed: number
  readonly 'io-status': IoStatus
  readonly ready: boolean
  readonly status: JobStatus
  readonly 'auto-finalize': boolean
  readonly 'auto-dismiss': boolean
  readonly error?: string
}

export interface BlockJobDriver extends JobDriver {
  run(job: BlockJob): Promise<void>
  /** The speed was changed. */
  speedChanged?(speed: number): void
}

export interface BlockJobOptions extends JobOptions {
  /** Bytes per second; default 0: as fast as it goes. */
  readonly speed?: number | undefined
}

/** A job that moves the data of nodes: it uses them, blocks other operations on them, and keeps a speed. */
export class BlockJob extends Job {
  readonly limiter: RateLimiter
  #ioStatus: IoStatus = 'ok'
  /** To wait before more is moved, nanoseconds. */
  #delay = 0
  readonly #edges: BlockChild[] = []
  readonly #devices: BlockChild[] = []
  readonly #blocker: { readonly message: string }
  readonly #parent: EdgeParent
  readonly #blockDriver: BlockJobDriver

  /** @throws BlockError as Job does, `Parameter 'speed' expects a non-negative value` */
  constructor(home: JobHome, driver: BlockJobDriver, options: BlockJobOptions = {}) {
    super(home, driver, options)
    try {
      checkSpeed(options.speed ?? 0)
    } catch (error) {
      this.discard()
      throw error
    }
    this.#blockDriver = driver
    this.limiter = new RateLimiter(home.clock)
    this.limiter.speed = options.speed ?? 0
    this.#blocker = { message: `block device is in use by block job: ${driver.type}` }
    this.#parent = {
      description: `${driver.type} job '${this.id}'`,
      stayAtNode: true,
      holdRequests: () => {
        this.pauseInternally()
      },
      releaseRequests: () => {
        this.resumeInternally()
      },
      quiesced: () => this.untilQuiet(),
      // What the job does follows its nodes.
      checkAioContext: () => undefined,
      aioContextChanged: () => undefined,
    }
  }

  /** Bytes per second; 0: as fast as it goes. */
  get speed(): number {
    return this.limiter.speed
  }

  /** @throws BlockError in a state that does not take it, or for a negative number */
  setSpeed(bytesPerSecond: number): void {
    this.checkVerb('set-speed')
    checkSpeed(bytesPerSecond)
    const before = this.limiter.speed
    this.limiter.speed = bytesPerSecond
    this.#blockDriver.speedChanged?.(bytesPerSecond)
    if (bytesPerSecond === 0 || bytesPerSecond > before) {
      this.enterIfAsleep()
    }
  }

  /**
   * `block-job-cancel`: without `force` it leaves a paused job alone.
   *
   * @throws BlockError `The block job for device '%s' is currently paused`
   */
  cancelAsBlockJob(force = false): void {
    if (this.isUserPaused && !force) {
      throw blockError('EBUSY', `The block job for device '${this.id}' is currently paused`)
    }
    this.cancel(force)
  }

  /** `bytes` are being moved, or have been: the next {@link breathe} waits as long as the speed demands. */
  moved(bytes: number): void {
    this.#delay = this.limiter.dispatch(bytes)
  }

  /** Waits for the speed's sake, gives others a turn when it is time, and rests if the job is paused. */
  override breathe(): Wait {
    const delay = this.#delay
    this.#delay = 0
    return delay > 0 ? this.sleep(delay) : super.breathe()
  }

  /**
   * Uses `node` until the end of the job, with these permissions, and forbids others to do anything
   * else with it.
   *
   * @throws BlockError if permissions conflict
   */
  async addNode(name: string, node: BlockNode, perm: number, shared: number): Promise<BlockChild> {
    const edge = await attach(name, this.#parent, node, perm, shared)
    node.opBlockers.blockAll(this.#blocker)
    this.#edges.push(edge)
    return edge
  }

  /**
   * Uses `node` as a device without a name would, until {@link removeNode} or the end of the job: what reads or writes
   * beside what {@link addNode} holds.
   *
   * @throws BlockError if permissions conflict
   */
  async addDevice(node: BlockNode, perm: number, shared: number): Promise<BlockChild> {
    const { stayAtNode: _, ...parent } = this.#parent
    const device = { ...parent, description: 'an unnamed block device' }
    const edge = await attach('root', device, node, perm, shared)
    this.#devices.push(edge)
    return edge
  }

  /** The edges made by {@link addNode}. */
  get nodes(): readonly BlockChild[] {
    return this.#edges
  }

  /** The edges made by {@link addDevice}. */
  get devices(): readonly BlockChild[] {
    return this.#devices
  }

  /** Lets one node go. Idempotent. */
  async removeNode(edge: BlockChild | undefined): Promise<void> {
    const list = edge !== undefined && this.#devices.includes(edge) ? this.#devices : this.#edges
    const at = edge === undefined ? -1 : list.indexOf(edge)
    if (edge === undefined || at < 0) {
      return
    }
    list.splice(at, 1)
    const { node } = edge
    if (list === this.#edges && this.#edges.every((other) => other.node !== node)) {
      node.opBlockers.unblockAll(this.#blocker)
    }
    await node.layer.graphLock.run(async () => {
      detachEdge(edge)
      if (node.references > 1) {
        await settlePermissions([node])
      }
    })
    await node.layer.unref(node)
  }

  /** Lets all nodes go. Idempotent; the end of the job does it. */
  async removeAllNodes(): Promise<void> {
    for (const edge of [...this.#edges, ...this.#devices].reverse()) {
      await this.removeNode(edge)
    }
  }

  protected override released(): Wait {
    return this.#edges.length + this.#devices.length === 0 ? undefined : this.removeAllNodes()
  }

  /** What `policy` says about an error. Tells it (BLOCK_JOB_ERROR), and pauses the job on `stop`. */
  errorAction(policy: JobOnError, isRead: boolean, code: ErrnoName): JobErrorAction {
    const action = policy === 'enospc' || policy === 'auto' ? (code === 'ENOSPC' ? 'stop' : 'report') : policy
    if (!this.isInternal) {
      this.home.emit('BLOCK_JOB_ERROR', { device: this.id, operation: isRead ? 'read' : 'write', action })
    }
    if (action === 'stop') {
      this.pauseForError()
      if (this.#ioStatus === 'ok') {
        this.#ioStatus = code === 'ENOSPC' ? 'nospace' : 'failed'
      }
    }
    return action
  }

  protected override userResumed(): void {
    this.#ioStatus = 'ok'
  }

  get ioStatus(): IoStatus {
    return this.#ioStatus
  }

  #announce(event: string, more: { readonly error?: string } = {}): void {
    if (!this.isInternal) {
      this.home.emit(event, {
        type: this.type,
        device: this.id,
        len: this.progress.len,
        offset: this.progress.offset,
        speed: this.speed,
        ...more,
      })
    }
  }

  protected override announceReady(): void {
    this.#announce('BLOCK_JOB_READY')
  }

  protected override announceCancelled(): void {
    this.#announce('BLOCK_JOB_CANCELLED')
  }

  protected override announceCompleted(): void {
    this.#announce('BLOCK_JOB_COMPLETED', this.error === undefined ? {} : { error: this.error.message })
  }

  protected override announcePending(): void {
    if (!this.isInternal) {
      this.home.emit('BLOCK_JOB_PENDING', { type: this.type, id: this.id })
    }
  }

  /** QAPI `BlockJobInfo`, as `query-block-jobs` shows it. */
  blockInfo(): BlockJobInfo {
    return {
      type: this.type,
      device: this.id,
      len: this.progress.len,
      offset: this.progress.offset,
      busy: this.isBusy,
      paused: this.pauseRequested,
      speed: this.speed,
      'io-status': this.#ioStatus,
      ready: this.isReady,
      status: this.status,
      'auto-finalize': this.autoFinalize,
      'auto-dismiss': this.autoDismiss,
      ...(this.error === undefined ? {} : { error: this.error.message }),
    }
  }
}

async function attach(
  name: string,
  parent: EdgeParent,
  node: BlockNode,
  perm: number,
  shared: number,
): Promise<BlockChild> {
  const edge = new BlockChild(name, 0, parent, node)
  edge.perm = perm
  edge.shared = shared
  await node.layer.graphLock.run(async () => {
    attachEdge(edge)
    try {
      await settlePermissions([node])
    } catch (error) {
      detachEdge(edge)
      node.references--
      throw error
    }
  })
  return edge
}

function checkSpeed(speed: number): void {
  if (!(speed >= 0)) {
    throw blockError('EINVAL', "Parameter 'speed' expects a non-negative value")
  }
}

/** Id of a job on `node` whose user gave none: the name of the device on it. @throws BlockError without a device */
export function defaultJobId(node: BlockNode): string {
  const name = deviceName(node)
  if (name === '') {
    throw blockError('EINVAL', 'An explicit job ID is required')
  }
  return name
}
