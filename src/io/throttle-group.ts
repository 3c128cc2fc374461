import type { Clock, Wait } from '../sched/index.js'
import { LeakyBucket } from './leaky-bucket.js'
import {
  isThrottled,
  type ThrottleBucketName,
  type ThrottleLimits,
  throttleBuckets,
} from './throttle-limits.js'

export type ThrottleDirection = 'read' | 'write'

interface Throttled {
  readonly bytes: number
  readonly resume: () => void
}

/** Which buckets a request in a direction fills, and so has to wait for. */
const bucketsOf: Readonly<Record<ThrottleDirection, readonly ThrottleBucketName[]>> = {
  read: ['bps-total', 'iops-total', 'bps-read', 'iops-read'],
  write: ['bps-total', 'iops-total', 'bps-write', 'iops-write'],
}

/** The requests of one direction that wait. */
class Lane {
  waiting = 0
  /** When the next one may go, nanoseconds; undefined while nothing is timed. */
  due: number | undefined = undefined
  cancel: (() => void) | undefined = undefined
  /** Who went last. */
  token: ThrottleMember | undefined = undefined
}

/**
 * Users that share limits. Their requests go in the order they came; when those of several members
 * wait, the members take turns, reads and writes apart. A user object of type `throttle-group`.
 */
export class ThrottleGroup {
  readonly type = 'throttle-group'
  readonly id: string
  readonly #clock: Clock
  readonly #members: ThrottleMember[] = []
  readonly #lanes: Readonly<Record<ThrottleDirection, Lane>> = { read: new Lane(), write: new Lane() }
  #limits!: ThrottleLimits
  #buckets!: Readonly<Record<ThrottleBucketName, LeakyBucket>>
  #enabled = false
  /** When the buckets leaked last, nanoseconds. */
  #leaked = 0

  constructor(id: string, limits: ThrottleLimits, clock: Clock) {
    this.id = id
    this.#clock = clock
    this.limits = limits
  }

  get limits(): ThrottleLimits {
    return this.#limits
  }

  /** The buckets start empty; those who wait are measured by the new limits. */
  set limits(limits: ThrottleLimits) {
    this.#limits = limits
    this.#enabled = isThrottled(limits)
    this.#leaked = this.#clock.now()
    this.#buckets = Object.fromEntries(
      throttleBuckets.map((name) => [name, new LeakyBucket(limits.buckets[name])]),
    ) as Record<ThrottleBucketName, LeakyBucket>
    for (const direction of ['read', 'write'] as const) {
      this.#untime(this.#lanes[direction])
      this.#proceed(direction)
    }
  }

  get inUse(): boolean {
    return this.#members.length > 0
  }

  get members(): readonly ThrottleMember[] {
    return this.#members
  }

  join(): ThrottleMember {
    const member = new ThrottleMember(this)
    this.#members.push(member)
    return member
  }

  /** @internal */
  admit(member: ThrottleMember, direction: ThrottleDirection, bytes: number): Wait {
    if (!this.#enabled || member.unlimited) {
      return undefined
    }
    const lane = this.#lanes[direction]
    if (lane.waiting === 0) {
      const seconds = this.#wait(direction)
      if (seconds === 0) {
        this.#count(direction, bytes)
        return undefined
      }
      this.#time(direction, seconds)
    }
    lane.waiting++
    return new Promise<void>((resume) => {
      member.queues[direction].push({ bytes, resume })
    })
  }

  /** @internal Lets everything go that a member has waiting. */
  flush(member: ThrottleMember): void {
    for (const direction of ['read', 'write'] as const) {
      const lane = this.#lanes[direction]
      for (const { bytes, resume } of member.queues[direction].splice(0)) {
        lane.waiting--
        this.#count(direction, bytes)
        resume()
      }
      if (lane.waiting === 0) {
        this.#untime(lane)
      }
    }
  }

  /** @internal */
  leave(member: ThrottleMember): void {
    this.flush(member)
    const at = this.#members.indexOf(member)
    for (const lane of [this.#lanes.read, this.#lanes.write]) {
      if (lane.token === member) {
        // The turn stays with the one before, so that the one behind is next.
        lane.token = this.#members.length > 1 ? this.#members.at(at - 1) : undefined
      }
    }
    this.#members.splice(at, 1)
  }

  /** Seconds that a request in this direction has to wait. */
  #wait(direction: ThrottleDirection): number {
    const now = this.#clock.now()
    const seconds = (now - this.#leaked) / 1e9
    this.#leaked = now
    if (seconds > 0) {
      for (const name of throttleBuckets) {
        this.#buckets[name].leak(seconds)
      }
    }
    let wait = 0
    for (const name of bucketsOf[direction]) {
      wait = Math.max(wait, this.#buckets[name].wait)
    }
    return wait
  }

  #count(direction: ThrottleDirection, bytes: number): void {
    const size = this.#limits.iopsSize
    const operations = size !== 0 && bytes > size ? bytes / size : 1
    for (const name of bucketsOf[direction]) {
      this.#buckets[name].add(name.startsWith('bps') ? bytes : operations)
    }
  }

  #time(direction: ThrottleDirection, seconds: number): void {
    const lane = this.#lanes[direction]
    const nanoseconds = Math.ceil(seconds * 1e9)
    lane.due ??= this.#clock.now() + nanoseconds
    lane.cancel = this.#clock.after(nanoseconds, () => {
      this.#timeUp(direction)
    })
  }

  #untime(lane: Lane): void {
    lane.cancel?.()
    lane.cancel = undefined
    lane.due = undefined
  }

  #timeUp(direction: ThrottleDirection): void {
    const lane = this.#lanes[direction]
    lane.cancel = undefined
    const early = (lane.due ?? 0) - this.#clock.now()
    if (early > 0) {
      this.#time(direction, early / 1e9)
      return
    }
    lane.due = undefined
    // Whose time has come goes even if the other direction has filled the bucket meanwhile: otherwise
    // one could keep the other from ever going.
    this.#next(direction)
    this.#proceed(direction)
  }

  /** Lets go whatever may go by now. */
  #proceed(direction: ThrottleDirection): void {
    const lane = this.#lanes[direction]
    while (lane.waiting > 0) {
      const seconds = this.#wait(direction)
      if (seconds > 0) {
        this.#time(direction, seconds)
        return
      }
      this.#next(direction)
    }
  }

  /** The next member's oldest request goes. */
  #next(direction: ThrottleDirection): void {
    const lane = this.#lanes[direction]
    const members = this.#members
    const last = lane.token === undefined ? -1 : members.indexOf(lane.token)
    for (let step = 1; step <= members.length; step++) {
      const member = members[(last + step) % members.length]
      const throttled = member?.queues[direction].shift()
      if (member !== undefined && throttled !== undefined) {
        lane.token = member
        lane.waiting--
        this.#count(direction, throttled.bytes)
        throttled.resume()
        return
      }
    }
  }
}

/** One user in a {@link ThrottleGroup}. */
export class ThrottleMember {
  readonly group: ThrottleGroup
  /** @internal Oldest first. */
  readonly queues: Readonly<Record<ThrottleDirection, Throttled[]>> = { read: [], write: [] }
  #lifted = 0

  constructor(group: ThrottleGroup) {
    this.group = group
  }

  get unlimited(): boolean {
    return this.#lifted !== 0
  }

  /** Waits until a request may start. Bytes. */
  admit(direction: ThrottleDirection, bytes: number): Wait {
    return this.group.admit(this, direction, bytes)
  }

  /** Suspends the limits for this member until {@link restoreLimits} is called as often: what waits goes at once. */
  liftLimits(): void {
    this.#lifted++
    this.group.flush(this)
  }

  restoreLimits(): void {
    this.#lifted--
  }

  /** Ends the membership; what waits goes at once. */
  leave(): void {
    this.group.leave(this)
  }
}
