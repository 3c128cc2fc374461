import { type ErrnoName, ioError } from '../../src/errors/index.js'
import type { FileOpenOptions, FileStat, FolderEntry, HostFile } from '../../src/host/index.js'
import { MemoryHost, type MemoryOperation } from '../../src/testing/index.js'

/** Files with their contents, folders with `undefined`; paths relative to the folder, parents first. */
export type Tree = ReadonlyMap<string, Uint8Array | undefined>

/** What a name in a folder means: a file or a folder by an identity that no other ever has. */
export interface Target {
  readonly kind: 'file' | 'folder'
  readonly identity: string
}

/** What happened to the folder and the files in it, in order. */
export type FolderEvent =
  | { readonly kind: 'data'; readonly file: string; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: 'sync'; readonly file: string }
  | {
      readonly kind: 'names'
      readonly folder: string
      /** Names that change together, with what they mean then; undefined: nothing. */
      readonly changes: ReadonlyMap<string, Target | undefined>
    }
  | { readonly kind: 'syncFolder'; readonly folder: string }

export type HostOperation =
  | MemoryOperation['kind']
  | 'create'
  | 'rename'
  | 'unlink'
  | 'makeFolder'
  | 'removeFolder'
  | 'syncFolder'
  | 'copyPermissions'

/** Where the folder stands on the host. */
export const rootPath = '/host/root'
export const rootIdentity = 'folder:0'

/** What is watched of a {@link FolderHost}, and what goes wrong there. */
export class FolderRecord {
  readonly events: FolderEvent[] = []
  /** Changes to what is not in the folder, and is no temporary file. */
  readonly outside: string[] = []
  /** Called before each operation; the errno it returns makes it fail without effect. */
  fault: ((kind: HostOperation, path: string) => ErrnoName | undefined) | undefined = undefined
  identityOf: (path: string) => string | undefined = () => undefined

  check(kind: HostOperation, path: string): void {
    const code = this.fault?.(kind, path)
    if (code !== undefined) {
      throw ioError(code)
    }
  }

  data(operation: MemoryOperation): void {
    const { kind, path } = operation
    if (path.startsWith('/var/tmp/')) {
      return
    }
    const file = this.identityOf(path)
    if (!path.startsWith(`${rootPath}/`) || file === undefined) {
      this.outside.push(`${kind} ${path}`)
    } else if (kind === 'write') {
      this.events.push({ kind: 'data', file, offset: operation.offset, data: operation.data })
    } else if (kind === 'flush') {
      this.events.push({ kind: 'sync', file })
    } else {
      throw new Error(`vvfat is not expected to ${kind}`)
    }
  }
}

/** A platform in memory with folders, whose names a power cut can lose as well as contents. */
export class FolderHost extends MemoryHost {
  readonly record: FolderRecord
  /** By path. */
  readonly #folders = new Map<string, string>([[rootPath, rootIdentity]])
  #numbers = 1

  constructor(tree: Tree, record = new FolderRecord()) {
    super({
      log: (operation) => record.data(operation),
      fault: (operation) => record.fault?.(operation.kind, operation.path),
    })
    for (const [path, bytes] of tree) {
      if (bytes === undefined) {
        this.#folders.set(`${rootPath}/${path}`, `folder:${this.#numbers++}`)
      } else {
        this.put(`${rootPath}/${path}`, bytes)
      }
    }
    this.put('/host/outside', new Uint8Array([1, 2, 3]))
    this.record = record
    record.identityOf = (path) => this.contents(path)?.identity
  }

  /** What is in the folder now. */
  tree(): Map<string, Uint8Array | undefined> {
    const all = [...this.#folders.keys(), ...this.paths].filter((path) => path.startsWith(`${rootPath}/`))
    return new Map(
      all.sort().map((path) => [path.slice(rootPath.length + 1), this.contents(path)?.bytes()] as const),
    )
  }

  /** What each name in the folder means, by folder. */
  names(): Map<string, Map<string, Target>> {
    const names = new Map([...this.#folders.values()].map((folder) => [folder, new Map<string, Target>()]))
    const add = (path: string, target: Target): void => {
      names.get(this.#folders.get(parentOf(path)) ?? '')?.set(nameOf(path), target)
    }
    for (const [path, identity] of this.#folders) {
      add(path, { kind: 'folder', identity })
    }
    for (const path of this.paths) {
      add(path, { kind: 'file', identity: this.contents(path)?.identity ?? '' })
    }
    return names
  }

  #changed(path: string, changes: readonly (readonly [name: string, target: Target | undefined])[]): void {
    const folder = this.#folders.get(parentOf(path))
    if (folder === undefined || !path.startsWith(`${rootPath}/`)) {
      if (!path.startsWith('/var/tmp/')) {
        this.record.outside.push(`names ${path}`)
      }
      return
    }
    this.record.events.push({ kind: 'names', folder, changes: new Map(changes) })
  }

  override open(path: string, options: FileOpenOptions = {}): HostFile {
    const isNew = this.contents(path) === undefined && options.create === true
    if (isNew) {
      this.record.check('create', path)
    }
    if (this.#folders.has(this.absolute(path))) {
      throw ioError('EISDIR')
    }
    const file = super.open(path, options)
    if (isNew) {
      this.#changed(path, [[nameOf(path), { kind: 'file', identity: this.contents(path)?.identity ?? '' }]])
    }
    return file
  }

  override stat(path: string): FileStat | undefined {
    const identity = this.#folders.get(this.absolute(path))
    return identity === undefined
      ? super.stat(path)
      : { kind: 'directory', size: 4096, allocated: 4096, blockSize: 4096, identity }
  }

  override realPath(path: string): string | undefined {
    const absolute = this.absolute(path)
    return this.#folders.has(absolute) ? absolute : super.realPath(path)
  }

  override unlink(path: string): void {
    this.record.check('unlink', path)
    super.unlink(path)
    this.#changed(path, [[nameOf(path), undefined]])
  }

  override rename(from: string, to: string): void {
    this.record.check('rename', from)
    if (parentOf(from) !== parentOf(to) || this.#folders.has(to)) {
      throw new Error(`no rename of ${from} to ${to} is expected`)
    }
    const identity = this.contents(from)?.identity ?? ''
    super.rename(from, to)
    this.#changed(from, [
      [nameOf(from), undefined],
      [nameOf(to), { kind: 'file', identity }],
    ])
  }

  list(path: string): readonly FolderEntry[] {
    const entry = (name: string, kind: 'directory' | 'regular', size: number): FolderEntry => {
      const time = 1_600_000_000_000
      return { name, kind, size, modified: time, changed: time, accessed: time }
    }
    const dots = ['.', '..'].map((name) => entry(name, 'directory', 4096))
    const within = (other: string): boolean => parentOf(other) === path
    const folders = [...this.#folders.keys()].filter(within)
    const files = this.paths.filter(within)
    return [
      ...dots,
      ...folders.map((folder) => entry(nameOf(folder), 'directory', 4096)),
      ...files.map((file) => entry(nameOf(file), 'regular', this.contents(file)?.size ?? 0)),
    ]
  }

  makeFolder(path: string): void {
    this.record.check('makeFolder', path)
    if (this.stat(path) !== undefined) {
      throw ioError('EEXIST')
    }
    const identity = `folder:${this.#numbers++}`
    this.#folders.set(path, identity)
    this.#changed(path, [[nameOf(path), { kind: 'folder', identity }]])
  }

  removeFolder(path: string): void {
    this.record.check('removeFolder', path)
    if (this.list(path).length > 2) {
      throw ioError('ENOTEMPTY')
    }
    if (!this.#folders.delete(path)) {
      throw ioError('ENOENT')
    }
    this.#changed(path, [[nameOf(path), undefined]])
  }

  syncFolder(path: string): void {
    this.record.check('syncFolder', path)
    this.record.events.push({ kind: 'syncFolder', folder: this.#folders.get(path) ?? '' })
  }

  copyPermissions(_from: string, to: string): void {
    this.record.check('copyPermissions', to)
  }
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'))
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}
