import { blockError, codeOf, strerror } from '../errors/index.js'
import type { Backend } from '../graph/index.js'
import type { Wait } from '../sched/index.js'
import { TimeSlice } from '../sched/index.js'
import { throwIfAborted } from './long-run.js'

export interface BenchOptions {
  /** Requests; default 75000. */
  readonly count?: number | undefined
  /** Requests in flight; default 64. */
  readonly depth?: number | undefined
  /** Bytes per request; default 4096. */
  readonly bufferSize?: number | undefined
  /** Bytes from one request's offset to the next; default the buffer size. */
  readonly step?: number | undefined
  /** First offset in bytes; default 0. */
  readonly offset?: number | undefined
  readonly write?: boolean | undefined
  /** Byte written; default 0. */
  readonly pattern?: number | undefined
  /** Flush after this many writes; 0: never. At least the depth. */
  readonly flushInterval?: number | undefined
  /** Do not wait for the requests in flight before a flush. */
  readonly noDrain?: boolean | undefined
  readonly signal?: AbortSignal | undefined
}

export interface BenchResult {
  /** Wall clock. */
  readonly seconds: number
  readonly requests: number
}

/**
 * Runs the requests of `qemu-img bench` and says how long they took. Offsets wrap at the end of the
 * image.
 *
 * @throws BlockError `Failed request: …`, or `EINVAL` for options that contradict each other
 */
export async function benchImage(image: Backend, options: BenchOptions = {}): Promise<BenchResult> {
  const bench = new Bench(image, options)
  const start = performance.now()
  await bench.run()
  return { seconds: (performance.now() - start) / 1000, requests: bench.count }
}

class Bench {
  readonly count: number
  readonly #image: Backend
  readonly #write: boolean
  readonly #depth: number
  readonly #size: number
  readonly #step: number
  readonly #flushInterval: number
  readonly #drain: boolean
  readonly #signal: AbortSignal | undefined
  readonly #buffers: Uint8Array[]
  readonly #slice = new TimeSlice()
  #offset: number
  #started = 0
  #inFlight = 0
  #failure: unknown
  #wake: (() => void) | undefined
  /** The flush due at the current count has been started. */
  #flushed = false

  constructor(image: Backend, options: BenchOptions) {
    this.#image = image
    this.count = options.count ?? 75000
    this.#write = options.write === true
    this.#depth = options.depth ?? 64
    this.#size = options.bufferSize ?? 4096
    this.#step = options.step ?? this.#size
    this.#flushInterval = options.flushInterval ?? 0
    this.#drain = options.noDrain !== true
    this.#signal = options.signal
    this.#offset = options.offset ?? 0
    if (!this.#write && this.#flushInterval > 0) {
      throw blockError('EINVAL', '--flush-interval is only available in write tests')
    }
    if (this.#flushInterval > 0 && this.#flushInterval < this.#depth) {
      throw blockError('EINVAL', "Flush interval can't be smaller than depth")
    }
    // Reads of different requests must not share a buffer; writes only read theirs.
    const pattern = options.pattern ?? 0
    const buffers = this.#write ? 1 : this.#depth
    this.#buffers = Array.from({ length: buffers }, () => new Uint8Array(this.#size).fill(pattern))
  }

  async run(): Promise<void> {
    while (this.#started < this.count || this.#inFlight > 0) {
      this.#start()
      if (this.#inFlight > 0) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      } else {
        const pause = this.#slice.breathe()
        if (pause !== undefined) {
          await pause
        }
      }
      if (this.#failure !== undefined && this.#inFlight === 0) {
        const code = codeOf(this.#failure)
        if (code === 'ECANCELED') {
          throw this.#failure
        }
        throw blockError(code, `Failed request: ${strerror(code)}`, { cause: this.#failure })
      }
    }
  }

  /** Starts requests until the depth is reached; those done at once make room for more. */
  #start(): void {
    try {
      while (this.#failure === undefined && this.#started < this.count && this.#inFlight < this.#depth) {
        throwIfAborted(this.#signal)
        const due = this.#flushInterval > 0 && this.#started > 0 && this.#started % this.#flushInterval === 0
        if (due && !this.#flushed) {
          if (this.#drain && this.#inFlight > 0) {
            return
          }
          this.#flushed = true
          this.#track(this.#image.flush(), undefined)
          if (this.#drain && this.#inFlight > 0) {
            return
          }
        }
        this.#flushed = false
        this.#request()
        if (this.#slice.expired) {
          return
        }
      }
    } catch (error) {
      this.#failure ??= error
    }
  }

  #request(): void {
    const offset = this.#offset
    this.#started++
    // The last request before the end starts again from the beginning if it would not fit.
    const next = (offset + this.#step) % Math.max(1, this.#image.length)
    this.#offset = next + this.#size > this.#image.length ? 0 : next
    const bytes = this.#size
    if (this.#write) {
      this.#track(this.#image.write(offset, bytes, this.#buffers[0] as Uint8Array), undefined)
      return
    }
    const buffer = this.#buffers.pop() as Uint8Array
    this.#track(this.#image.read(offset, bytes, buffer), buffer)
  }

  #track(wait: Wait, buffer: Uint8Array | undefined): void {
    if (wait === undefined) {
      this.#release(buffer)
      return
    }
    this.#inFlight++
    wait.then(
      () => this.#done(buffer),
      (error: unknown) => {
        this.#failure ??= error
        this.#done(buffer)
      },
    )
  }

  #release(buffer: Uint8Array | undefined): void {
    if (buffer !== undefined) {
      this.#buffers.push(buffer)
    }
  }

  #done(buffer: Uint8Array | undefined): void {
    this.#inFlight--
    this.#release(buffer)
    this.#start()
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }
}
