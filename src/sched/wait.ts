/**
 * "Done now, or wait": data-path methods return `undefined` when they are finished and a promise
 * otherwise, so that a request whose data is at hand never creates one.
 *
 * A method that returns `Wait` may also throw synchronously. Callers write
 * `const w = f(); if (w !== undefined) await w`.
 */
export type Wait = Promise<void> | undefined

/** A value now or later. */
export type Maybe<T> = T | Promise<T>

/** Joins two waits; both are settled before the result is, and the first error is reported. */
export function both(a: Wait, b: Wait): Wait {
  if (a === undefined) {
    return b
  }
  if (b === undefined) {
    return a
  }
  return settleAll([a, b])
}

/**
 * Waits until every promise has settled, then throws the first error, if any. A failed request may
 * only be reported once nothing writes into its buffer any more, so `Promise.all` will not do.
 */
export async function settleAll(waits: Iterable<Wait>): Promise<void> {
  const results = await Promise.allSettled(waits)
  for (const result of results) {
    if (result.status === 'rejected') {
      throw result.reason
    }
  }
}

/** Runs `f`, turning a synchronous throw into a rejection: for code that treats both alike. */
export async function attempt(f: () => Wait): Promise<void> {
  const wait = f()
  if (wait !== undefined) {
    await wait
  }
}
