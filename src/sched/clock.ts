/** Time that only goes forward, and a way to be called later. Nanoseconds. */
export interface Clock {
  /** Since any start. */
  now(): number
  /** Calls `callback` once when `nanoseconds` have passed, or a little early or late; the result calls it off. */
  after(nanoseconds: number, callback: () => void): () => void
}

/** The platform's clock. Timers are exact to about a millisecond and keep the process alive. */
export const monotonicClock: Clock = {
  now: () => performance.now() * 1e6,
  after: (nanoseconds, callback) => {
    const timer = setTimeout(callback, Math.ceil(nanoseconds / 1e6))
    return () => {
      clearTimeout(timer)
    }
  },
}
