import { createRequire } from 'node:module'

/** The part of koffi, which calls functions of C libraries, that is used here. */
export interface Koffi {
  load(name: string | null): Library
  /** The calling thread's; within the callback of an asynchronous call, that call's. */
  errno(): number
  address(value: unknown): bigint
  /** The memory behind a pointer, without a copy. */
  view(pointer: unknown, bytes: number): ArrayBuffer
}

export interface Library {
  func(declaration: string): KoffiFunction
}

export interface KoffiFunction {
  (...args: unknown[]): number | bigint
  async(...args: unknown[]): void
}

let cached: Koffi | undefined | null = null

/** koffi, loaded on first use; undefined where it does not run. */
export function koffi(): Koffi | undefined {
  if (cached === null) {
    cached = load()
  }
  return cached
}

function load(): Koffi | undefined {
  if (process.platform !== 'linux' || (process.arch !== 'x64' && process.arch !== 'arm64')) {
    return undefined
  }
  try {
    return createRequire(import.meta.url)('koffi') as Koffi
  } catch {
    return undefined
  }
}

/** A library of this system and what `bind` makes of it; undefined if it is not there or lacks a function. */
export function systemLibrary<T>(name: string, bind: (library: Library, caller: Koffi) => T): T | undefined {
  try {
    const caller = koffi()
    return caller === undefined ? undefined : bind(caller.load(name), caller)
  } catch {
    return undefined
  }
}

// koffi hands addresses to the other thread without keeping the memory behind them alive.
const inFlight = new Set<unknown[]>()

/**
 * Calls a function on another thread; what it is given stays alive and must stay untouched until then.
 * `outcome` sees the result while {@link Koffi.errno} is that of the call.
 */
export function callLater<T>(
  f: KoffiFunction,
  args: unknown[],
  outcome: (result: number | bigint) => T,
): Promise<T> {
  return new Promise((resolve, reject) => {
    inFlight.add(args)
    try {
      f.async(...args, (error: Error | null, result: number | bigint) => {
        inFlight.delete(args)
        if (error === null) {
          resolve(outcome(result))
        } else {
          reject(error)
        }
      })
    } catch {
      // koffi's queue is bounded; when it is full, this thread has to do the work.
      inFlight.delete(args)
      resolve(outcome(f(...args)))
    }
  })
}
