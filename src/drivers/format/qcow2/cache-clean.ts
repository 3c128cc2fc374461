import type { TableCache } from '../../../formatkit/index.js'
import type { Clock } from '../../../sched/index.js'

/**
 * Lets go of cached metadata that nobody asked for during an interval (option `cache-clean-interval`).
 * Nothing is spent on requests, and the timer keeps no process alive.
 */
export class CacheCleaner {
  readonly #clock: Clock
  readonly #caches: () => readonly TableCache[]
  #nanoseconds = 0
  #cancel: (() => void) | undefined = undefined

  constructor(clock: Clock, caches: () => readonly TableCache[]) {
    this.#clock = clock
    this.#caches = caches
  }

  /** Begins, or goes on with another interval; 0 stops. */
  start(seconds: number): void {
    this.stop()
    this.#nanoseconds = seconds * 1e9
    if (seconds > 0) {
      this.#wait()
    }
  }

  stop(): void {
    this.#cancel?.()
    this.#cancel = undefined
  }

  #wait(): void {
    this.#cancel = this.#clock.after(this.#nanoseconds, () => this.#clean(), { background: true })
  }

  #clean(): void {
    for (const cache of this.#caches()) {
      cache.dropUnused()
    }
    this.#wait()
  }
}
