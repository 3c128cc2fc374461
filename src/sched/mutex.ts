import type { Wait } from './wait.js'

/** A fair mutual-exclusion lock. Taking a free lock is synchronous. */
export class Mutex {
  #held = false
  readonly #waiters: (() => void)[] = []

  get locked(): boolean {
    return this.#held
  }

  /** Takes the lock; returns `undefined` if it was free. */
  lock(): Wait {
    if (!this.#held) {
      this.#held = true
      return undefined
    }
    return new Promise<void>((resolve) => {
      this.#waiters.push(resolve)
    })
  }

  /** Releases the lock and hands it to the longest waiter. */
  unlock(): void {
    const next = this.#waiters.shift()
    if (next === undefined) {
      this.#held = false
    } else {
      next()
    }
  }

  /** Runs `body` with the lock held; whatever it does, the lock is released. */
  async run<T>(body: () => T | Promise<T>): Promise<T> {
    const wait = this.lock()
    if (wait !== undefined) {
      await wait
    }
    try {
      return await body()
    } finally {
      this.unlock()
    }
  }
}
