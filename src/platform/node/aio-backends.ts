import type { Wait } from '../../sched/index.js'
import { type AioBackend, type AioMode, poolAio } from './aio-backend.js'
import { libc } from './libc.js'
import { UringAio } from './uring/uring-aio.js'

/**
 * The backends of one host. The ring is set up when the first file needs it and taken down when the last
 * one that used it is closed.
 */
export class AioBackends {
  /** Whether a process has nothing else to do while requests are in flight. */
  readonly #foreground: boolean
  #ring: UringAio | undefined
  #users = 0
  /** The kernel or its sandbox has refused a ring: nobody asks again. */
  #refused = false

  constructor(foreground: boolean) {
    this.#foreground = foreground
  }

  /** The ring if there can be one, else the pool. To be given back. */
  acquire(mode: AioMode): AioBackend {
    if (mode === 'threads' || this.#refused) {
      return poolAio
    }
    this.#ring ??= this.#open()
    if (this.#ring === undefined) {
      this.#refused = true
      return poolAio
    }
    this.#users++
    return this.#ring
  }

  #open(): UringAio | undefined {
    const c = libc()
    return c === undefined ? undefined : UringAio.open(c, this.#foreground)
  }

  /** Nothing of the user's is in flight any more. */
  release(backend: AioBackend): Wait {
    const ring = this.#ring
    if (backend !== ring || ring === undefined || --this.#users > 0) {
      return undefined
    }
    this.#ring = undefined
    return ring.close()
  }
}
