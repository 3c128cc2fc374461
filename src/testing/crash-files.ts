import { CrashImage } from './crash-log.js'
import type { MemoryOperation } from './memory-host.js'

/** What a crash may have left of several files. */
export interface CrashFilesState {
  /** Operations that had been issued. */
  readonly issued: number
  readonly contents: ReadonlyMap<string, Uint8Array>
}

export interface CrashFilesOptions {
  /** Random states tried after each operation, besides "everything", "nothing unflushed" and "only the newest". */
  readonly samples?: number
  /** Returns a number in [0, 1); seeded by the caller. */
  readonly random: () => number
}

/**
 * Records what is done to files and gives states that a power cut could leave of all of them together:
 * of each file what was flushed, and any part of what was issued since, whatever the other files kept.
 * Writes may be torn at sector boundaries.
 */
export class CrashFiles {
  readonly #initial: ReadonlyMap<string, Uint8Array>
  readonly #operations: MemoryOperation[] = []

  /** @param initial contents on the disk when the recording starts */
  constructor(initial: ReadonlyMap<string, Uint8Array>) {
    this.#initial = initial
  }

  /** Takes an operation that succeeded. Files that were not there initially are left out. */
  record(operation: MemoryOperation): void {
    if (operation.kind !== 'read' && this.#initial.has(operation.path)) {
      this.#operations.push(operation)
    }
  }

  get length(): number {
    return this.#operations.length
  }

  *states(options: CrashFilesOptions): Generator<CrashFilesState> {
    const durable = new Map<string, CrashImage>()
    const pending = new Map<string, MemoryOperation[]>()
    for (const [path, bytes] of this.#initial) {
      const image = new CrashImage()
      image.apply({ kind: 'write', path, offset: 0, data: bytes })
      durable.set(path, image)
      pending.set(path, [])
    }
    const state = (
      issued: number,
      keep: (path: string, index: number, count: number) => boolean,
      torn: boolean,
    ) => {
      const contents = new Map<string, Uint8Array>()
      for (const [path, image] of durable) {
        const left = image.copy()
        const operations = pending.get(path) ?? []
        operations.forEach((operation, index) => {
          if (!keep(path, index, operations.length)) {
            return
          }
          if (torn && operation.kind === 'write' && options.random() < 0.5) {
            left.applyTorn(operation.offset, operation.data, options.random)
          } else {
            left.apply(operation)
          }
        })
        contents.set(path, left.bytes())
      }
      return { issued, contents }
    }
    for (const [at, operation] of this.#operations.entries()) {
      const { path } = operation
      const waiting = pending.get(path) ?? []
      if (operation.kind === 'flush') {
        for (const done of waiting.splice(0)) {
          durable.get(path)?.apply(done)
        }
      } else {
        waiting.push(operation)
      }
      const issued = at + 1
      yield state(issued, () => true, false)
      yield state(issued, () => false, false)
      yield state(issued, (name, index, count) => name === path && index === count - 1, false)
      for (let sample = 0; sample < (options.samples ?? 2); sample++) {
        yield state(issued, () => options.random() < 0.5, true)
      }
    }
  }
}
