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
  /** Bytes moved in it. */
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
   * Counts `bytes` that have been moved, and returns how long to wait before more is, nanoseconds. Work
   * larger than what a slice allows makes the wait longer.
   */
  dispatch(bytes: number): number {
    if (this.#speed === 0) {
      return 0
    }
    const now = this.#clock.now()
    const quota = Math.max(1, (this.#speed * sliceLength) / 1e9)
    if (this.#end < now) {
      // What was too much in the last slice has been waited for.
      this.#start = now
      this.#end = now + sliceLength
      this.#dispatched = 0
    }
    this.#dispatched += bytes
    if (this.#dispatched < quota) {
      return 0
    }
    this.#end = this.#start + (this.#dispatched / quota) * sliceLength
    return Math.max(0, this.#end - now)
  }
}
