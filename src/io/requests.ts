import type { Wait } from '../sched/index.js'

export type RequestKind = 'read' | 'write' | 'discard' | 'truncate'

/** A request in flight on a node. Requests that complete synchronously are never tracked. */
export class TrackedRequest {
  readonly kind: RequestKind
  readonly start: number
  readonly end: number
  serialising = false
  /** Range widened to the alignment a serialising request needs. */
  overlapStart: number
  overlapEnd: number
  waitingFor: TrackedRequest | undefined = undefined
  readonly #waiters: (() => void)[] = []

  constructor(kind: RequestKind, offset: number, bytes: number) {
    this.kind = kind
    this.start = offset
    this.end = offset + bytes
    this.overlapStart = offset
    this.overlapEnd = offset + bytes
  }

  overlaps(start: number, end: number): boolean {
    return this.overlapStart < end && start < this.overlapEnd
  }

  finished(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiters.push(resolve)
    })
  }

  wake(): void {
    for (const resolve of this.#waiters.splice(0)) {
      resolve()
    }
  }
}

/**
 * The requests in flight on one node: serialises overlapping ones that ask for it, counts for
 * drain, and tells when everything that was in flight at some moment has finished.
 */
export class RequestSet {
  readonly #requests = new Set<TrackedRequest>()
  #serialising = 0
  #idleWaiters: (() => void)[] = []

  /** Whether a new request may have to wait for one in flight. Hot: read on every request. */
  get mustCheck(): boolean {
    return this.#serialising !== 0
  }

  get size(): number {
    return this.#requests.size
  }

  begin(kind: RequestKind, offset: number, bytes: number): TrackedRequest {
    const request = new TrackedRequest(kind, offset, bytes)
    this.#requests.add(request)
    return request
  }

  end(request: TrackedRequest): void {
    this.#requests.delete(request)
    if (request.serialising) {
      this.#serialising--
    }
    request.wake()
    if (this.#requests.size === 0) {
      for (const resolve of this.#idleWaiters.splice(0)) {
        resolve()
      }
    }
  }

  /** Makes `request` exclude every overlapping one, its range widened to `align` bytes. */
  makeSerialising(request: TrackedRequest, align: number): void {
    request.overlapStart = Math.min(request.overlapStart, Math.floor(request.start / align) * align)
    request.overlapEnd = Math.max(request.overlapEnd, Math.ceil(request.end / align) * align)
    if (!request.serialising) {
      request.serialising = true
      this.#serialising++
    }
  }

  /** Waits until no request conflicts with `self` any more. */
  waitConflicts(self: TrackedRequest): Wait {
    return this.#conflict(self) === undefined ? undefined : this.#waitConflicts(self)
  }

  #conflict(self: TrackedRequest): TrackedRequest | undefined {
    for (const request of this.#requests) {
      if (request === self || (!request.serialising && !self.serialising)) {
        continue
      }
      // A request that is itself waiting would deadlock with us; it re-checks when it wakes.
      if (request.waitingFor === undefined && request.overlaps(self.overlapStart, self.overlapEnd)) {
        return request
      }
    }
    return undefined
  }

  async #waitConflicts(self: TrackedRequest): Promise<void> {
    for (;;) {
      const conflict = this.#conflict(self)
      if (conflict === undefined) {
        return
      }
      self.waitingFor = conflict
      await conflict.finished()
      self.waitingFor = undefined
    }
  }

  /** Keeps `wait` tracked until it settles. */
  async track(wait: Promise<void>, kind: RequestKind, offset: number, bytes: number): Promise<void> {
    const request = this.begin(kind, offset, bytes)
    try {
      await wait
    } finally {
      this.end(request)
    }
  }

  /** Settles when nothing is in flight. */
  idle(): Wait {
    if (this.#requests.size === 0) {
      return undefined
    }
    return new Promise<void>((resolve) => {
      this.#idleWaiters.push(resolve)
    })
  }

  /**
   * Runs `callback` when every request in flight now has finished: at once if there is none.
   * Host space that such a request may still read or write must not be reused before.
   */
  afterCurrent(callback: () => void): void {
    let left = 0
    const one = (): void => {
      if (--left === 0) {
        callback()
      }
    }
    for (const request of this.#requests) {
      left++
      void request.finished().then(one)
    }
    if (left === 0) {
      callback()
    }
  }
}
