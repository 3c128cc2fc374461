import { blockError } from '../errors/index.js'
import type { Wait } from '../sched/index.js'
import { LatencyHistogram } from './latency-histogram.js'
import { TimedAverage } from './timed-average.js'

/** Kinds of requests that are counted apart, as in QEMU. */
export const accountedKinds = ['read', 'write', 'flush', 'unmap'] as const

export type AccountedKind = (typeof accountedKinds)[number]

export interface AccountingOptions {
  /** Whether requests that were refused before they started count as accesses; default true. */
  readonly accountInvalid?: boolean
  /** Whether failed requests count in times and averages; default true. */
  readonly accountFailed?: boolean
  /** Periods to keep averages for, seconds. */
  readonly intervals?: readonly number[]
  /** Nanoseconds from any start; default: the platform's monotonic clock. */
  readonly clock?: () => number
}

/** Counters of one kind. */
export interface KindCounters {
  bytes: number
  operations: number
  merged: number
  failed: number
  invalid: number
  /** Nanoseconds. */
  totalTime: number
}

/** A request that has started; goes to {@link IoAccounting.done} or {@link IoAccounting.failed}. */
export interface AccountedRequest {
  readonly kind: AccountedKind
  readonly bytes: number
  /** Nanoseconds. */
  readonly start: number
}

export interface AccountingInterval {
  /** Seconds. */
  readonly length: number
  readonly latency: Readonly<Record<AccountedKind, TimedAverage>>
}

function forKinds<T>(make: () => T): Record<AccountedKind, T> {
  return { read: make(), write: make(), flush: make(), unmap: make() }
}

const platformClock = (): number => performance.now() * 1e6

/** What the requests of one user, or of one node, add up to. */
export class IoAccounting {
  readonly counters: Record<AccountedKind, KindCounters>
  readonly intervals: readonly AccountingInterval[]
  readonly histograms: Partial<Record<AccountedKind, LatencyHistogram>> = {}
  readonly accountInvalid: boolean
  readonly accountFailed: boolean
  readonly #clock: () => number
  #lastAccess = 0

  /** @throws BlockError EINVAL for an interval that is not positive */
  constructor(options: AccountingOptions = {}) {
    this.accountInvalid = options.accountInvalid ?? true
    this.accountFailed = options.accountFailed ?? true
    this.#clock = options.clock ?? platformClock
    this.counters = forKinds(() => ({
      bytes: 0,
      operations: 0,
      merged: 0,
      failed: 0,
      invalid: 0,
      totalTime: 0,
    }))
    this.intervals = (options.intervals ?? []).map((length) => {
      if (!(length > 0)) {
        throw blockError('EINVAL', `Invalid interval length: ${length}`)
      }
      return { length, latency: forKinds(() => new TimedAverage(length * 1e9, this.#clock())) }
    })
  }

  /** Nanoseconds on the clock of this accounting. */
  now(): number {
    return this.#clock()
  }

  /** Nanoseconds since the last access; undefined if there was none. */
  get idleTime(): number | undefined {
    return this.#lastAccess === 0 ? undefined : this.#clock() - this.#lastAccess
  }

  start(kind: AccountedKind, bytes: number): AccountedRequest {
    return { kind, bytes, start: this.#clock() }
  }

  done(request: AccountedRequest): void {
    this.#finish(request.kind, request.bytes, request.start, false)
  }

  failed(request: AccountedRequest): void {
    this.#finish(request.kind, request.bytes, request.start, true)
  }

  /** A request that was refused before it started. */
  invalid(kind: AccountedKind): void {
    this.counters[kind].invalid++
    if (this.accountInvalid) {
      this.#lastAccess = this.#clock()
    }
  }

  /** `requests` requests were joined to others. */
  merged(kind: AccountedKind, requests: number): void {
    this.counters[kind].merged += requests
  }

  /** Runs a request and counts how it went. */
  run(kind: AccountedKind, bytes: number, request: () => Wait): Wait {
    const start = this.#clock()
    let wait: Wait
    try {
      wait = request()
    } catch (error) {
      this.#finish(kind, bytes, start, true)
      throw error
    }
    if (wait === undefined) {
      this.#finish(kind, bytes, start, false)
      return undefined
    }
    return wait.then(
      () => {
        this.#finish(kind, bytes, start, false)
      },
      (error: unknown) => {
        this.#finish(kind, bytes, start, true)
        throw error
      },
    )
  }

  #finish(kind: AccountedKind, bytes: number, start: number, failed: boolean): void {
    const now = this.#clock()
    const latency = now - start
    const counters = this.counters[kind]
    if (failed) {
      counters.failed++
    } else {
      counters.bytes += bytes
      counters.operations++
    }
    this.histograms[kind]?.account(latency)
    if (!failed || this.accountFailed) {
      counters.totalTime += latency
      this.#lastAccess = now
      for (const interval of this.intervals) {
        interval.latency[kind].account(latency, now)
      }
    }
  }

  /** Starts a histogram with these boundaries (nanoseconds), from zero. @throws BlockError EINVAL */
  setHistogram(kind: AccountedKind, boundaries: readonly number[]): void {
    this.histograms[kind] = new LatencyHistogram(boundaries)
  }

  clearHistograms(): void {
    for (const kind of accountedKinds) {
      delete this.histograms[kind]
    }
  }
}
