import type { Wait } from './wait.js'

interface Held {
  readonly start: number
  readonly end: number
  readonly waiters: (() => void)[]
}

/**
 * Exclusive locks on byte ranges. Overlapping holders exclude each other; disjoint ones do not.
 * The set is expected to be small (requests in flight), so look-ups are linear.
 */
export class RangeLock {
  readonly #held: Held[] = []

  get size(): number {
    return this.#held.length
  }

  /** Whether `[start, end)` overlaps a held range. */
  isLocked(start: number, end: number): boolean {
    return this.#find(start, end) !== undefined
  }

  #find(start: number, end: number): Held | undefined {
    for (const held of this.#held) {
      if (held.start < end && start < held.end) {
        return held
      }
    }
    return undefined
  }

  /** Takes `[start, end)` if it is free, else returns `undefined` at once. The result goes to {@link release}. */
  tryLock(start: number, end: number): object | undefined {
    if (this.#find(start, end) !== undefined) {
      return undefined
    }
    const held: Held = { start, end, waiters: [] }
    this.#held.push(held)
    return held
  }

  /** Waits until nothing overlapping `[start, end)` is held. */
  wait(start: number, end: number): Wait {
    const held = this.#find(start, end)
    if (held === undefined) {
      return undefined
    }
    return this.#waitFor(held, start, end)
  }

  async #waitFor(first: Held, start: number, end: number): Promise<void> {
    let held: Held | undefined = first
    while (held !== undefined) {
      const current: Held = held
      await new Promise<void>((resolve) => {
        current.waiters.push(resolve)
      })
      held = this.#find(start, end)
    }
  }

  async lock(start: number, end: number): Promise<object> {
    for (;;) {
      const token = this.tryLock(start, end)
      if (token !== undefined) {
        return token
      }
      await this.wait(start, end)
    }
  }

  release(token: object): void {
    const index = this.#held.indexOf(token as Held)
    if (index < 0) {
      throw new Error('range lock released twice')
    }
    const [held] = this.#held.splice(index, 1)
    for (const wake of held?.waiters ?? []) {
      wake()
    }
  }
}
