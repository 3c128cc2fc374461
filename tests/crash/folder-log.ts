import type { FileOpenOptions, HostFile } from '../../src/host/index.js'
import { CrashImage } from '../../src/testing/crash-log.js'
import { MemoryHost, type MemoryHostOptions, type MemoryOperation } from '../../src/testing/index.js'

type Names = ReadonlyMap<string, string>

type Event =
  | { readonly kind: 'data'; readonly file: string; readonly operation: MemoryOperation }
  /** The names of files from now on. */
  | { readonly kind: 'names'; readonly names: Names }
  | { readonly kind: 'folder synced' }

/** What a power cut may have left of a folder. */
export interface FolderState {
  /** Events that had happened. */
  readonly issued: number
  readonly files: ReadonlyMap<string, Uint8Array>
}

/**
 * A platform in memory that records what is done to the files of a folder, and to their names, and gives what a
 * power cut may leave: names as they were at any time since the folder was last synced, and of each file what was
 * flushed and any part of the rest, whatever the names say.
 */
export class FolderHost extends MemoryHost {
  readonly #events: Event[] = []
  #durableNames: Names = new Map()
  readonly #initial = new Map<string, Uint8Array>()
  #recording = false

  constructor(options: Omit<MemoryHostOptions, 'log'>) {
    super({
      ...options,
      log: (operation) => {
        const file = this.contents(operation.path)?.identity
        if (this.#recording && file !== undefined) {
          this.#events.push({ kind: 'data', file, operation })
        }
      },
    })
  }

  /** Everything so far is on the disk; what comes is recorded. */
  record(): void {
    this.#recording = true
    this.#durableNames = this.#names()
    for (const path of this.paths) {
      const contents = this.contents(path)
      if (contents !== undefined) {
        this.#initial.set(contents.identity, contents.bytes())
      }
    }
  }

  /** Events recorded. */
  get length(): number {
    return this.#events.length
  }

  #names(): Names {
    return new Map(this.paths.map((path) => [path, this.contents(path)?.identity ?? '']))
  }

  #renamed(): void {
    if (this.#recording) {
      this.#events.push({ kind: 'names', names: this.#names() })
    }
  }

  override open(path: string, options: FileOpenOptions = {}): HostFile {
    const isNew = this.contents(path) === undefined
    const file = super.open(path, options)
    if (isNew) {
      this.#renamed()
    }
    return file
  }

  override unlink(path: string): void {
    super.unlink(path)
    this.#renamed()
  }

  override rename(from: string, to: string): void {
    super.rename(from, to)
    this.#renamed()
  }

  syncFolder(): void {
    this.#events.push({ kind: 'folder synced' })
  }

  /**
   * Every state of the files called `visible`. Of more than `exhaustive` writes since a flush, only all of them,
   * none, all but one and the newest alone are left.
   */
  *states(visible: readonly string[], exhaustive: number): Generator<FolderState> {
    const durable = new Map<string, CrashImage>()
    for (const [file, bytes] of this.#initial) {
      durable.set(file, new CrashImage(bytes))
    }
    const pending = new Map<string, MemoryOperation[]>()
    let names: Names[] = [this.#durableNames]
    for (const [index, event] of this.#events.entries()) {
      if (event.kind === 'names') {
        names.push(event.names)
      } else if (event.kind === 'folder synced') {
        names = names.slice(-1)
      } else {
        const { file, operation } = event
        const image = durable.get(file) ?? new CrashImage()
        durable.set(file, image)
        const waiting = pending.get(file) ?? []
        pending.set(file, waiting)
        if (operation.kind === 'flush') {
          for (const done of waiting.splice(0)) {
            image.apply(done)
          }
        } else {
          waiting.push(operation)
        }
      }
      for (const known of names) {
        yield* this.#statesOf(index + 1, known, visible, exhaustive, durable, pending)
      }
    }
  }

  *#statesOf(
    issued: number,
    names: Names,
    visible: readonly string[],
    exhaustive: number,
    durable: ReadonlyMap<string, CrashImage>,
    pending: ReadonlyMap<string, readonly MemoryOperation[]>,
  ): Generator<FolderState> {
    let states: ReadonlyMap<string, Uint8Array>[] = [new Map()]
    for (const name of visible) {
      const file = names.get(name)
      if (file === undefined) {
        continue
      }
      const waiting = pending.get(file) ?? []
      const image = durable.get(file) ?? new CrashImage()
      const left = [...leftOf(image, waiting, exhaustive)]
      states = states.flatMap((state) => left.map((bytes) => new Map([...state, [name, bytes]])))
    }
    for (const files of states) {
      yield { issued, files }
    }
  }
}

/** What may be left of a file; the newest write may also be torn between sectors. */
function* leftOf(
  image: CrashImage,
  waiting: readonly MemoryOperation[],
  exhaustive: number,
): Generator<Uint8Array> {
  const after = (kept: readonly number[]): CrashImage => {
    const left = image.copy()
    for (const at of kept) {
      const operation = waiting[at]
      if (operation !== undefined) {
        left.apply(operation)
      }
    }
    return left
  }
  for (const kept of subsets(waiting.length, exhaustive)) {
    yield after(kept).bytes()
  }
  const newest = waiting.at(-1)
  if (newest?.kind === 'write' && newest.data.length > 512) {
    for (const even of [true, false]) {
      const torn = after([...Array(waiting.length - 1).keys()])
      let at = 0
      torn.applyTorn(newest.offset, newest.data, () => ((at++ % 2 === 0) === even ? 0 : 1))
      yield torn.bytes()
    }
  }
}

function subsets(count: number, exhaustive: number): number[][] {
  const all = [...Array(count).keys()]
  if (count <= exhaustive) {
    return Array.from({ length: 2 ** count }, (_, mask) => all.filter((at) => (mask >> at) & 1))
  }
  return [all, [], [count - 1], ...all.map((left) => all.filter((at) => at !== left))]
}
