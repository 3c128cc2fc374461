import type { BucketLimit } from './throttle-limits.js'

/**
 * A bucket that requests fill and that leaks at the permitted rate: while it is over its brim, nothing
 * may be added. A second, smaller one leaks at the burst rate, so that a long burst is not used up at
 * once.
 */
export class LeakyBucket {
  readonly #limit: BucketLimit
  /** Units in the buckets. */
  #level = 0
  #burstLevel = 0

  constructor(limit: BucketLimit) {
    this.#limit = limit
  }

  add(units: number): void {
    this.#level += units
    if (this.#limit.burstLength > 1) {
      this.#burstLevel += units
    }
  }

  /** Time has passed. */
  leak(seconds: number): void {
    const { average, max, burstLength } = this.#limit
    this.#level = Math.max(0, this.#level - average * seconds)
    if (burstLength > 1) {
      this.#burstLevel = Math.max(0, this.#burstLevel - max * seconds)
    }
  }

  /** Seconds until something may be added; 0: now. */
  get wait(): number {
    const { average, max, burstLength } = this.#limit
    if (average === 0) {
      return 0
    }
    const brim = max === 0 ? average / 10 : max * burstLength
    if (this.#level > brim) {
      return (this.#level - brim) / average
    }
    const burstBrim = max / 10
    return burstLength > 1 && this.#burstLevel > burstBrim ? (this.#burstLevel - burstBrim) / max : 0
  }
}
