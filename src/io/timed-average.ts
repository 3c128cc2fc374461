interface Window {
  min: number
  max: number
  sum: number
  count: number
  /** Nanoseconds at which the window ends. */
  end: number
}

/** What was measured in the window at hand. `elapsed` is the time since the window began, nanoseconds. */
export interface TimedFigures {
  readonly min: number
  readonly max: number
  readonly average: number
  readonly sum: number
  readonly elapsed: number
}

/**
 * Minimum, maximum and average over the recent past. Two windows of one period, half a period apart,
 * are kept; the older one is reported, so that figures always cover between half and a whole period
 * and never start from nothing.
 */
export class TimedAverage {
  readonly #period: number
  readonly #windows: [Window, Window]

  /** @param period nanoseconds; @param now nanoseconds */
  constructor(period: number, now: number) {
    this.#period = period
    this.#windows = [this.#window(now + period), this.#window(now + period / 2)]
  }

  #window(end: number): Window {
    return { min: Number.POSITIVE_INFINITY, max: 0, sum: 0, count: 0, end }
  }

  /** Replaces windows that have ended; a window's ends stay on the grid of its first one. */
  #expire(now: number): void {
    const period = this.#period
    for (const i of [0, 1] as const) {
      const { end } = this.#windows[i]
      if (end <= now) {
        this.#windows[i] = this.#window(end + (Math.floor((now - end) / period) + 1) * period)
      }
    }
  }

  /** Adds one value. */
  account(value: number, now: number): void {
    this.#expire(now)
    for (const window of this.#windows) {
      window.sum += value
      window.count++
      window.min = Math.min(window.min, value)
      window.max = Math.max(window.max, value)
    }
  }

  figures(now: number): TimedFigures {
    this.#expire(now)
    const [a, b] = this.#windows
    const window = a.end <= b.end ? a : b
    return {
      min: window.count === 0 ? 0 : window.min,
      max: window.max,
      average: window.count === 0 ? 0 : window.sum / window.count,
      sum: window.sum,
      elapsed: this.#period - (window.end - now),
    }
  }
}
