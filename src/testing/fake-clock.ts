import type { Clock } from '../sched/index.js'

interface Timer {
  readonly at: number
  readonly callback: () => void
}

/** A clock that stands still until it is told to go on. Nanoseconds. */
export class FakeClock implements Clock {
  #now = 0
  readonly #timers = new Set<Timer>()

  now(): number {
    return this.#now
  }

  after(nanoseconds: number, callback: () => void): () => void {
    const timer = { at: this.#now + nanoseconds, callback }
    this.#timers.add(timer)
    return () => {
      this.#timers.delete(timer)
    }
  }

  /** Goes on by `seconds`: timers run at their times, and what they set going does its work before the next. */
  async advance(seconds: number): Promise<void> {
    const end = this.#now + seconds * 1e9
    await settle()
    for (let next = this.#next(end); next !== undefined; next = this.#next(end)) {
      this.#now = Math.max(this.#now, next.at)
      this.#timers.delete(next)
      next.callback()
      await settle()
    }
    this.#now = end
  }

  /** Goes on to the next timer at once, without waiting for anything else. */
  expire(): void {
    const next = this.#next(Number.POSITIVE_INFINITY)
    if (next !== undefined) {
      this.#now = Math.max(this.#now, next.at)
      this.#timers.delete(next)
      next.callback()
    }
  }

  #next(end: number): Timer | undefined {
    let first: Timer | undefined
    for (const timer of this.#timers) {
      if (timer.at <= end && (first === undefined || timer.at < first.at)) {
        first = timer
      }
    }
    return first
  }
}

/** Everything that can go on without time passing has done so. */
function settle(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}
