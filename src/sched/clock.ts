/** Time that only goes forward, and a way to be called later. Nanoseconds. */
export interface Clock {
  /** Since any start. */
  now(): number
  /** Calls `callback` once when `nanoseconds` have passed, or a little early or late; the result calls it off. */
  after(nanoseconds: number, callback: () => void, how?: TimerOptions): () => void
}

export interface TimerOptions {
  /** Of no importance by itself: a process that has nothing else to do ends. */
  readonly background?: boolean
}

/** The platform's clock. Timers are exact to about a millisecond and keep the process alive, unless they are in the background. */
export const monotonicClock: Clock = {
  now: () => performance.now() * 1e6,
  after: (nanoseconds, callback, how) => {
    const timer: unknown = setTimeout(callback, Math.ceil(nanoseconds / 1e6))
    if (how?.background === true) {
      // Elsewhere than in Node a timer is a number, and keeps nothing alive.
      ;(timer as { unref?: () => void }).unref?.()
    }
    return () => {
      clearTimeout(timer as ReturnType<typeof setTimeout>)
    }
  },
}
