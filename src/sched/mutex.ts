import type { Maybe, Wait } from './wait.js'

/**
 * A fair mutual-exclusion lock. Taking a free lock is synchronous.
 *
 * Between one owner and the next the lock is free for a moment: work that is done in one synchronous block, and
 * looks at {@link Mutex.locked} first, need not queue. Otherwise one request that has to wait would make all later
 * ones wait for each other for as long as there is always another.
 */
export class Mutex {
  #held = false
  readonly #waiters: (() => void)[] = []
  /** Somebody who waited has been told to go on, and is about to. */
  #passing = false

  /** Whether somebody is inside. */
  get locked(): boolean {
    return this.#held
  }

  /** Takes the lock; returns `undefined` if it was free and nobody waits. */
  lock(): Wait {
    if (!this.#held && !this.#passing) {
      this.#held = true
      return undefined
    }
    return new Promise<void>((resolve) => {
      this.#waiters.push(resolve)
    }).then(() => {
      this.#passing = false
      this.#held = true
    })
  }

  /** Releases the lock and passes it to the longest waiter. */
  unlock(): void {
    this.#held = false
    const next = this.#waiters.shift()
    if (next !== undefined) {
      this.#passing = true
      next()
    }
  }

  /**
   * Runs `body` with the lock held; whatever it does, the lock is released. A body that is done when it returns
   * holds the lock for no longer than that.
   */
  async run<T>(body: () => Maybe<T>): Promise<T> {
    if (this.#held || this.#passing) {
      await new Promise<void>((resolve) => {
        this.#waiters.push(resolve)
      })
      this.#passing = false
    }
    this.#held = true
    try {
      const result = body()
      return result instanceof Promise ? await result : result
    } finally {
      this.unlock()
    }
  }
}
