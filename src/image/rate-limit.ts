/** Delays work so that it proceeds at `rate` bytes per second on average. */
export class RateLimit {
  readonly #rate: number
  /** When the bytes admitted so far will have used up their time, milliseconds. */
  #busyUntil = 0

  constructor(rate: number) {
    this.#rate = rate
  }

  /** Waits until `bytes` may be moved. An abort ends the wait early; the caller notices it itself. */
  async take(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    const now = performance.now()
    const start = Math.max(now, this.#busyUntil)
    this.#busyUntil = start + (bytes / this.#rate) * 1000
    if (start <= now) {
      return
    }
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, start - now)
      signal?.addEventListener('abort', done)
      if (signal?.aborted === true) {
        done()
      }
    })
  }
}
