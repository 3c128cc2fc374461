import { blockError } from '../errors/index.js'

/** What every operation that may take long accepts. */
export interface LongRun {
  /** Stops the operation; it then rejects with `ECANCELED` once nothing is in flight any more. */
  readonly signal?: AbortSignal | undefined
  /** Called now and then with the work done and the whole work, both in bytes; `done === total` at the end. */
  readonly progress?: ((done: number, total: number) => void) | undefined
}

/** Throws `ECANCELED` if `signal` is aborted; the signal's reason is the cause. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) {
    throw blockError('ECANCELED', 'Operation canceled', { cause: signal.reason })
  }
}
