import { type FolderEvent, type FolderHost, rootIdentity, type Target } from './folder-host.js'

type Names = Map<string, Target>
type NameChange = Extract<FolderEvent, { kind: 'names' }>['changes']
type Write = Extract<FolderEvent, { kind: 'data' }>

interface Kept<T, C> {
  durable: T
  pending: C[]
}

/** A tree that a power cut may leave. */
export interface FolderState {
  /** Events that had been issued. */
  readonly issued: number
  readonly tree: Map<string, Uint8Array | undefined>
}

/**
 * What a power cut could leave of a folder: of each file what was synced and any sectors written since; of each folder
 * the names that were synced and any changes of names since, whatever other folders kept. Only changes of the same name
 * keep their order. This is less than file systems with a journal promise.
 */
export class FolderCrash {
  readonly #files = new Map<string, Kept<Uint8Array, Write>>()
  readonly #folders = new Map<string, Kept<Names, NameChange>>()
  readonly #random: () => number

  /** @param host as it is before the events happen */
  constructor(host: FolderHost, random: () => number) {
    this.#random = random
    for (const [folder, names] of host.names()) {
      this.#folders.set(folder, { durable: names, pending: [] })
    }
    for (const path of host.paths) {
      const contents = host.contents(path)
      if (contents !== undefined) {
        this.#files.set(contents.identity, { durable: contents.bytes(), pending: [] })
      }
    }
  }

  *states(events: readonly FolderEvent[], samples: number): Generator<FolderState> {
    yield { issued: 0, tree: this.#tree(() => true) }
    for (const [at, event] of events.entries()) {
      this.#take(event)
      const issued = at + 1
      yield { issued, tree: this.#tree(() => true) }
      yield { issued, tree: this.#tree(() => false) }
      for (let sample = 0; sample < samples; sample++) {
        const most = this.#random()
        yield { issued, tree: this.#tree(() => this.#random() < most) }
      }
    }
  }

  #file(identity: string): Kept<Uint8Array, Write> {
    const file = this.#files.get(identity) ?? { durable: new Uint8Array(0), pending: [] }
    this.#files.set(identity, file)
    return file
  }

  #folder(identity: string): Kept<Names, NameChange> {
    const folder = this.#folders.get(identity) ?? { durable: new Map(), pending: [] }
    this.#folders.set(identity, folder)
    return folder
  }

  #take(event: FolderEvent): void {
    switch (event.kind) {
      case 'data':
        this.#file(event.file).pending.push(event)
        return
      case 'sync': {
        const file = this.#file(event.file)
        file.durable = contentsOf(file, () => true)
        file.pending = []
        return
      }
      case 'names':
        this.#folder(event.folder).pending.push(event.changes)
        return
      case 'syncFolder': {
        const folder = this.#folder(event.folder)
        folder.durable = namesOf(folder, () => true)
        folder.pending = []
      }
    }
  }

  #tree(keep: () => boolean): Map<string, Uint8Array | undefined> {
    const tree = new Map<string, Uint8Array | undefined>()
    const walk = (folder: string, prefix: string): void => {
      for (const [name, { kind, identity }] of namesOf(this.#folder(folder), keep)) {
        if (kind === 'file') {
          tree.set(prefix + name, contentsOf(this.#file(identity), keep))
        } else {
          tree.set(prefix + name, undefined)
          walk(identity, `${prefix}${name}/`)
        }
      }
    }
    walk(rootIdentity, '')
    return tree
  }
}

function namesOf({ durable, pending }: Kept<Names, NameChange>, keep: () => boolean): Names {
  const names = new Map(durable)
  const lost = new Set<string>()
  for (const changes of pending) {
    const isKept = keep() && ![...changes.keys()].some((name) => lost.has(name))
    for (const [name, target] of changes) {
      if (!isKept) {
        lost.add(name)
      } else if (target === undefined) {
        names.delete(name)
      } else {
        names.set(name, target)
      }
    }
  }
  return names
}

function contentsOf({ durable, pending }: Kept<Uint8Array, Write>, keep: () => boolean): Uint8Array {
  let bytes = durable
  for (const { offset, data } of pending) {
    for (let at = 0; at < data.length; at += 512) {
      if (keep()) {
        const end = offset + Math.min(at + 512, data.length)
        const longer = new Uint8Array(Math.max(bytes.length, end))
        longer.set(bytes)
        longer.set(data.subarray(at, at + 512), offset + at)
        bytes = longer
      }
    }
  }
  return bytes
}
