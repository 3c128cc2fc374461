import type { Clock } from '../sched/index.js'

/** Nanoseconds over which the speed is kept. */
const sliceLength = 100e6

/** Spreads work over time so that it keeps a speed, which may change at any moment. */
export class RateLimiter {
  readonly #clock: Clock
  #speed = 0
  /** When the present slice began and ends, nanoseconds. */
  #start = 0
  #end = 0
  /** Bytes admitted in it. */
  #dispatched = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Bytes per second; 0: as fast as it goes. */
  get speed(): number {
    return this.#speed
  }

  set speed(bytesPerSecond: number) {
    this.#speed = bytesPerSecond
  }

  /**
   * How long to wait, nanoseconds, before work on `bytes` more begins; 0: it may begin now, and is
   * counted. Work larger than what a slice allows is admitted at once and makes later work wait.
   */
  admit(bytes: number): number {
    if (this.#speed === 0) {
      return 0
    }
    const now = this.#clock.now()
    const quota = Math.max(1, (this.#speed * sliceLength) / 1e9)
    if (this.#end < now) {
      this.#start = now
      this.#end = now + sliceLength
      this.#dispatched = 0
    } else {
      // Work of more than a slice makes the slice longer; another speed counts from here on.
      this.#end = this.#start + sliceLength * Math.max(1, this.#dispatched / quota)
    }
    if (this.#dispatched < quota) {
      this.#dispatched += bytes
      return 0
    }
    return Math.max(1, this.#end - now)
  }
}
