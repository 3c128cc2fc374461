/** Milliseconds between two events of the same kind about the same thing. */
const intervals: Readonly<Record<string, number>> = {
  QUORUM_REPORT_BAD: 1000,
  QUORUM_FAILURE: 1000,
  VSERPORT_CHANGE: 1000,
}

interface Pending {
  readonly timer: ReturnType<typeof setTimeout>
  latest: object | undefined
}

/** Lets events that come in floods through once in a while: the first at once, then the latest of each interval. */
export class EventLimiter {
  readonly #pending = new Map<string, Pending>()

  pass(event: string, data: object, send: (data: object) => void): void {
    const interval = intervals[event]
    if (interval === undefined) {
      send(data)
      return
    }
    const { 'node-name': node, id } = data as Readonly<Record<string, unknown>>
    const key = `${event} ${String(event === 'QUORUM_REPORT_BAD' ? node : (id ?? ''))}`
    const pending = this.#pending.get(key)
    if (pending !== undefined) {
      pending.latest = data
      return
    }
    send(data)
    this.#wait(key, interval, send)
  }

  #wait(key: string, interval: number, send: (data: object) => void): void {
    const timer = setTimeout(() => {
      const latest = this.#pending.get(key)?.latest
      this.#pending.delete(key)
      if (latest !== undefined) {
        send(latest)
        this.#wait(key, interval, send)
      }
    }, interval)
    this.#pending.set(key, { timer, latest: undefined })
  }

  /** Drops what has not been sent. */
  close(): void {
    for (const { timer } of this.#pending.values()) {
      clearTimeout(timer)
    }
    this.#pending.clear()
  }
}
