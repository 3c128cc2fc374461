import type { Backend } from '../graph/index.js'

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
  /** Flush after this many writes; 0: never. */
  readonly flushInterval?: number | undefined
  /** Do not wait for the requests in flight before a flush. */
  readonly noDrain?: boolean | undefined
  readonly signal?: AbortSignal | undefined
}

export interface BenchResult {
  readonly seconds: number
  readonly requests: number
}

/** Runs the requests of `qemu-img bench` and says how long they took. Offsets wrap at the end of the image. */
export async function benchImage(image: Backend, options: BenchOptions = {}): Promise<BenchResult> {
  throw new Error(`unfinished ${String(image)} ${String(options)}`)
}
