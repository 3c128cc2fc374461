import type { MemoryOperation } from './memory-host.js'

/** Bytes that reach a disk together or not at all. */
const sectorBytes = 512

/** What a crash may have left of a file. */
export interface CrashState {
  /** Operations of the log that had been issued. */
  readonly issued: number
  /** How many flushes had completed. */
  readonly flushes: number
  readonly contents: Uint8Array
}

export interface CrashStateOptions {
  /** Subsets are enumerated completely up to this many unflushed operations. */
  readonly exhaustive?: number
  /** Random subsets tried beyond that. */
  readonly samples?: number
  /** What the file held before the first operation; default: nothing. */
  readonly initial?: Uint8Array
  /** Returns a number in [0, 1); seeded by the caller. */
  readonly random: () => number
}

/**
 * Records what is done to one file and enumerates what a power cut could leave: everything flushed,
 * and any subset of what was issued since, with writes torn at sector boundaries.
 */
export class CrashLog {
  readonly #operations: MemoryOperation[] = []

  /** Takes an operation that succeeded; other files' operations must be filtered out. */
  record(operation: MemoryOperation): void {
    if (operation.kind !== 'read') {
      this.#operations.push(operation)
    }
  }

  get length(): number {
    return this.#operations.length
  }

  /** Flushes recorded so far. */
  get flushes(): number {
    return this.#operations.filter((operation) => operation.kind === 'flush').length
  }

  /** Every crash state, from the first operation to the last. */
  *states(options: CrashStateOptions): Generator<CrashState> {
    const durable = new CrashImage(options.initial)
    let pending: MemoryOperation[] = []
    let flushes = 0
    for (const [index, operation] of this.#operations.entries()) {
      if (operation.kind === 'flush') {
        for (const done of pending) {
          durable.apply(done)
        }
        pending = []
        flushes++
        yield { issued: index + 1, flushes, contents: durable.bytes() }
        continue
      }
      pending.push(operation)
      for (const kept of subsets(pending.length, options)) {
        const image = durable.copy()
        for (const at of kept) {
          const one = pending[at]
          if (one !== undefined) {
            image.apply(one)
          }
        }
        yield { issued: index + 1, flushes, contents: image.bytes() }
      }
      if (operation.kind === 'write' && operation.data.length > sectorBytes) {
        const image = durable.copy()
        for (const before of pending.slice(0, -1)) {
          image.apply(before)
        }
        image.applyTorn(operation.offset, operation.data, options.random)
        yield { issued: index + 1, flushes, contents: image.bytes() }
      }
    }
  }
}

/** Index sets that contain the newest of `count` operations. */
function* subsets(count: number, options: CrashStateOptions): Generator<number[]> {
  const newest = count - 1
  if (count <= (options.exhaustive ?? 6)) {
    for (let mask = 0; mask < 2 ** newest; mask++) {
      const kept = [...Array(newest).keys()].filter((at) => (mask >> at) & 1)
      yield [...kept, newest]
    }
    return
  }
  const all = [...Array(count).keys()]
  yield all
  yield [newest]
  for (let left = 0; left < newest; left++) {
    yield all.filter((at) => at !== left)
  }
  for (let sample = 0; sample < (options.samples ?? 8); sample++) {
    yield all.filter((at) => at === newest || options.random() < 0.5)
  }
}

/** @internal A file as it stands on the disk. */
export class CrashImage {
  #bytes: Uint8Array

  constructor(bytes: Uint8Array = new Uint8Array(0)) {
    this.#bytes = Uint8Array.from(bytes)
  }

  copy(): CrashImage {
    return new CrashImage(this.#bytes)
  }

  bytes(): Uint8Array {
    return this.#bytes.slice()
  }

  #grow(length: number): void {
    if (length > this.#bytes.length) {
      const grown = new Uint8Array(length)
      grown.set(this.#bytes)
      this.#bytes = grown
    }
  }

  apply(operation: MemoryOperation): void {
    switch (operation.kind) {
      case 'write':
        this.#grow(operation.offset + operation.data.length)
        this.#bytes.set(operation.data, operation.offset)
        return
      case 'zero':
        this.#bytes.fill(
          0,
          operation.offset,
          Math.min(this.#bytes.length, operation.offset + operation.bytes),
        )
        return
      case 'truncate':
        if (operation.length <= this.#bytes.length) {
          this.#bytes = this.#bytes.slice(0, operation.length)
        } else {
          this.#grow(operation.length)
        }
        return
      default:
        return
    }
  }

  applyTorn(offset: number, data: Uint8Array, random: () => number): void {
    this.#grow(offset + data.length)
    for (let at = 0; at < data.length; at += sectorBytes) {
      if (random() < 0.5) {
        this.#bytes.set(data.subarray(at, at + sectorBytes), offset + at)
      }
    }
  }
}
