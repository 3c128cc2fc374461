import { blockError, type ErrnoName, ioError } from '../errors/index.js'
import type {
  Codec,
  FileKind,
  FileOpenOptions,
  FileStat,
  Host,
  HostCiphers,
  HostCodecs,
  HostFile,
  HostFiles,
} from '../host/index.js'
import { type Clock, monotonicClock, type Wait } from '../sched/index.js'
import { MemoryZones, type MemoryZonesOptions } from './memory-zones.js'

export type MemoryOperation =
  | { readonly kind: 'write'; readonly path: string; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: 'truncate'; readonly path: string; readonly length: number }
  | { readonly kind: 'zero'; readonly path: string; readonly offset: number; readonly bytes: number }
  | { readonly kind: 'flush'; readonly path: string }
  | { readonly kind: 'read'; readonly path: string; readonly offset: number; readonly bytes: number }

export interface MemoryHostOptions {
  readonly codecs?: HostCodecs
  readonly ciphers?: HostCiphers | undefined
  readonly clock?: Clock
  /** Called before each operation; the errno it returns makes the operation fail without effect. */
  readonly fault?: (operation: MemoryOperation) => ErrnoName | undefined
  /** Turns to wait before an operation completes; 0 completes it synchronously. */
  readonly delay?: (operation: MemoryOperation) => number
  /**
   * Called before an operation takes effect and before it is answered, both of which wait for what it returns. What is
   * written is then taken from the caller's buffer when the write takes effect, not when it begins.
   */
  readonly hold?: (operation: MemoryOperation, moment: 'effect' | 'answer') => Wait
  /** Sees every write, truncation, zeroing and flush that succeeded, in order. */
  readonly log?: (operation: MemoryOperation) => void
  readonly pathStyle?: 'posix' | 'win32'
  /** Largest total file size; beyond it writes fail with ENOSPC. Bytes. */
  readonly capacity?: number
}

interface Lock {
  readonly owner: object
  readonly start: number
  readonly end: number
  readonly exclusive: boolean
}

/** One file's contents, shared by all opens. Sparse by 64 KiB pages. */
export class MemoryContents {
  static readonly pageBytes = 65536
  size = 0
  kind: FileKind = 'regular'
  /** Of a zoned device. */
  zones: MemoryZones | undefined = undefined
  readonly identity: string
  readonly locks: Lock[] = []
  readonly #pages = new Map<number, Uint8Array>()

  constructor(identity: string) {
    this.identity = identity
  }

  get allocated(): number {
    return this.#pages.size * MemoryContents.pageBytes
  }

  hasPage(index: number): boolean {
    return this.#pages.has(index)
  }

  read(offset: number, bytes: number, into: Uint8Array, at: number): void {
    const page = MemoryContents.pageBytes
    for (let done = 0; done < bytes; ) {
      const inPage = (offset + done) % page
      const chunk = Math.min(page - inPage, bytes - done)
      const data = this.#pages.get(Math.floor((offset + done) / page))
      if (data === undefined) {
        into.fill(0, at + done, at + done + chunk)
      } else {
        into.set(data.subarray(inPage, inPage + chunk), at + done)
      }
      done += chunk
    }
  }

  write(offset: number, data: Uint8Array): void {
    const page = MemoryContents.pageBytes
    for (let done = 0; done < data.length; ) {
      const inPage = (offset + done) % page
      const chunk = Math.min(page - inPage, data.length - done)
      const index = Math.floor((offset + done) / page)
      let target = this.#pages.get(index)
      if (target === undefined) {
        target = new Uint8Array(page)
        this.#pages.set(index, target)
      }
      target.set(data.subarray(done, done + chunk), inPage)
      done += chunk
    }
    this.size = Math.max(this.size, offset + data.length)
  }

  zero(offset: number, bytes: number): void {
    const page = MemoryContents.pageBytes
    const end = offset + bytes
    for (const [index, data] of [...this.#pages]) {
      const from = Math.max(offset, index * page)
      const to = Math.min(end, (index + 1) * page)
      if (from >= to) {
        continue
      }
      if (to - from === page) {
        this.#pages.delete(index)
      } else {
        data.fill(0, from - index * page, to - index * page)
      }
    }
  }

  truncate(length: number): void {
    if (length < this.size) {
      this.zero(length, this.size - length)
    }
    this.size = length
  }

  /** The whole contents; for images small enough to hold. */
  bytes(): Uint8Array {
    const all = new Uint8Array(this.size)
    this.read(0, this.size, all, 0)
    return all
  }
}

class MemoryFile implements HostFile {
  readonly path: string
  readonly writable: boolean
  readonly alignment: { request: number; memory: number }
  readonly canLock = true
  readonly #host: MemoryHost
  readonly #contents: MemoryContents
  #closed = false

  constructor(host: MemoryHost, path: string, contents: MemoryContents, options: FileOpenOptions) {
    this.#host = host
    this.path = path
    this.#contents = contents
    this.writable = options.write ?? false
    this.alignment = options.direct === true ? { request: 512, memory: 1 } : { request: 1, memory: 1 }
  }

  get kind(): FileKind {
    return this.#contents.kind
  }

  get zones(): MemoryZones | undefined {
    return this.#contents.zones
  }

  /** @param effect returns false if there was nothing to do */
  #run(operation: MemoryOperation, effect: () => boolean | undefined): Wait {
    if (this.#closed) {
      throw ioError('EBADF')
    }
    const { fault, delay, hold } = this.#host.options
    const code = fault?.(operation)
    const turns = delay?.(operation) ?? 0
    const held = hold?.(operation, 'effect')
    if (turns === 0 && held === undefined) {
      this.#carryOut(operation, code, effect)
      return hold?.(operation, 'answer')
    }
    return this.#later(turns, held, operation, code, effect)
  }

  #carryOut(
    operation: MemoryOperation,
    code: ErrnoName | undefined,
    effect: () => boolean | undefined,
  ): void {
    if (code !== undefined) {
      throw ioError(code)
    }
    if (effect() !== false && operation.kind !== 'read') {
      this.#host.options.log?.(
        operation.kind === 'write' ? { ...operation, data: operation.data.slice() } : operation,
      )
    }
  }

  async #later(
    turns: number,
    held: Wait,
    operation: MemoryOperation,
    code: ErrnoName | undefined,
    effect: () => boolean | undefined,
  ): Promise<void> {
    for (let turn = 0; turn < turns; turn++) {
      await Promise.resolve()
    }
    await held
    this.#carryOut(operation, code, effect)
    await this.#host.options.hold?.(operation, 'answer')
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#run({ kind: 'read', path: this.path, offset, bytes }, () => {
      this.#contents.read(offset, bytes, buffer, bufferOffset)
      return undefined
    })
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    if (!this.writable) {
      throw ioError('EBADF')
    }
    if (offset + bytes > (this.#host.options.capacity ?? Number.POSITIVE_INFINITY)) {
      throw ioError('ENOSPC')
    }
    const end = bufferOffset + bytes
    const isHeld = this.#host.options.hold !== undefined
    const data = isHeld ? buffer.subarray(bufferOffset, end) : buffer.slice(bufferOffset, end)
    return this.#run({ kind: 'write', path: this.path, offset, data }, () => {
      this.#contents.zones?.writing(offset, bytes)
      this.#contents.write(offset, data)
      return undefined
    })
  }

  sync(): Wait {
    return this.#run({ kind: 'flush', path: this.path }, () => undefined)
  }

  stat(): FileStat {
    return this.#host.statOf(this.#contents)
  }

  size(): number {
    return this.#contents.size
  }

  truncate(length: number): Wait {
    if (length > (this.#host.options.capacity ?? Number.POSITIVE_INFINITY)) {
      throw ioError('ENOSPC')
    }
    return this.#run({ kind: 'truncate', path: this.path, length }, () => {
      this.#contents.truncate(length)
      return undefined
    })
  }

  /** Makes the file longer, unless another has done so meanwhile: it never gets shorter. */
  #grow(length: number): Wait {
    const { capacity = Number.POSITIVE_INFINITY } = this.#host.options
    if (length <= this.#contents.size) {
      return undefined
    }
    if (length > capacity) {
      throw ioError('ENOSPC')
    }
    return this.#run({ kind: 'truncate', path: this.path, length }, () => {
      if (length <= this.#contents.size) {
        return false
      }
      this.#contents.truncate(length)
      return undefined
    })
  }

  async allocate(offset: number, bytes: number): Promise<boolean> {
    await this.#grow(offset + bytes)
    return true
  }

  async punchHole(offset: number, bytes: number): Promise<boolean> {
    await this.#run({ kind: 'zero', path: this.path, offset, bytes }, () => {
      this.#contents.zero(offset, bytes)
      return undefined
    })
    return true
  }

  async zeroRange(offset: number, bytes: number): Promise<boolean> {
    await this.punchHole(offset, bytes)
    await this.#grow(offset + bytes)
    return true
  }

  discardDevice(): boolean {
    return false
  }

  seekData(offset: number): number {
    const page = MemoryContents.pageBytes
    for (let index = Math.floor(offset / page); index * page < this.#contents.size; index++) {
      if (this.#contents.hasPage(index)) {
        return Math.max(offset, index * page)
      }
    }
    return -1
  }

  seekHole(offset: number): number {
    const page = MemoryContents.pageBytes
    if (offset >= this.#contents.size) {
      return -1
    }
    for (let index = Math.floor(offset / page); index * page < this.#contents.size; index++) {
      if (!this.#contents.hasPage(index)) {
        return Math.max(offset, index * page)
      }
    }
    return this.#contents.size
  }

  copyTo(): undefined {
    return undefined
  }

  dropCache(): void {
    // There is no cache.
  }

  setLock(start: number, length: number, mode: 'shared' | 'exclusive' | 'none'): boolean {
    const locks = this.#contents.locks
    const end = start + length
    if (mode !== 'none' && this.lockConflicts(start, length, mode)) {
      return false
    }
    for (let i = locks.length - 1; i >= 0; i--) {
      const lock = locks[i]
      if (lock?.owner === this && lock.start < end && start < lock.end) {
        locks.splice(i, 1)
        if (lock.start < start) {
          locks.push({ ...lock, end: start })
        }
        if (end < lock.end) {
          locks.push({ ...lock, start: end })
        }
      }
    }
    if (mode !== 'none') {
      locks.push({ owner: this, start, end, exclusive: mode === 'exclusive' })
    }
    return true
  }

  lockConflicts(start: number, length: number, mode: 'shared' | 'exclusive'): boolean {
    const end = start + length
    return this.#contents.locks.some(
      (lock) =>
        lock.owner !== this &&
        lock.start < end &&
        start < lock.end &&
        (lock.exclusive || mode === 'exclusive'),
    )
  }

  close(): Wait {
    this.#closed = true
    const locks = this.#contents.locks
    for (let i = locks.length - 1; i >= 0; i--) {
      if (locks[i]?.owner === this) {
        locks.splice(i, 1)
      }
    }
    return undefined
  }
}

/** A platform in memory: files that exist only here, with faults, delays and a log on request. */
export class MemoryHost implements Host, HostFiles {
  readonly options: MemoryHostOptions
  readonly pathStyle: 'posix' | 'win32'
  readonly pageSize = 4096
  readonly clock: Clock
  readonly warnings: string[] = []
  readonly printed: string[] = []
  readonly #files = new Map<string, MemoryContents>()
  #next = 1

  constructor(options: MemoryHostOptions = {}) {
    this.options = options
    this.pathStyle = options.pathStyle ?? 'posix'
    this.clock = options.clock ?? monotonicClock
  }

  get files(): HostFiles {
    return this
  }

  get ciphers(): HostCiphers | undefined {
    return this.options.ciphers
  }

  get codecs(): HostCodecs {
    return this.options.codecs ?? noCodecs
  }

  randomBytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, (_, i) => (this.#next++ * 37 + i * 11) & 255)
  }

  sameBytes(a: Uint8Array, aOffset: number, b: Uint8Array, bOffset: number, bytes: number): boolean {
    const other = b.subarray(bOffset, bOffset + bytes)
    return a.subarray(aOffset, aOffset + bytes).every((byte, i) => byte === other[i])
  }

  print(line: string): void {
    this.printed.push(line)
  }

  warn(line: string): void {
    this.warnings.push(line)
  }

  /** Creates or replaces a file. */
  put(path: string, data: Uint8Array = new Uint8Array(0), kind: FileKind = 'regular'): MemoryContents {
    const contents = new MemoryContents(`memory:${this.#next++}`)
    contents.kind = kind
    contents.write(0, data)
    this.#files.set(this.absolute(path), contents)
    return contents
  }

  /** Creates or replaces a zoned block device. */
  putZoned(path: string, options: MemoryZonesOptions): MemoryContents {
    const contents = this.put(path, new Uint8Array(0), 'block')
    contents.truncate(options.size)
    contents.zones = new MemoryZones(options, (offset, bytes) => contents.zero(offset, bytes))
    return contents
  }

  contents(path: string): MemoryContents | undefined {
    return this.#files.get(this.absolute(path))
  }

  get paths(): string[] {
    return [...this.#files.keys()]
  }

  statOf(contents: MemoryContents): FileStat {
    return {
      kind: contents.kind,
      size: contents.size,
      allocated: contents.allocated,
      blockSize: 4096,
      identity: contents.identity,
    }
  }

  open(path: string, options: FileOpenOptions = {}): HostFile {
    let contents = this.contents(path)
    if (contents !== undefined && options.create === true && options.exclusive === true) {
      throw ioError('EEXIST')
    }
    if (contents === undefined) {
      if (options.create !== true) {
        throw ioError('ENOENT')
      }
      contents = this.put(path)
    }
    if (options.truncate === true) {
      contents.truncate(0)
    }
    return new MemoryFile(this, path, contents, options)
  }

  stat(path: string): FileStat | undefined {
    const contents = this.contents(path)
    return contents === undefined ? undefined : this.statOf(contents)
  }

  unlink(path: string): void {
    if (!this.#files.delete(this.absolute(path))) {
      throw ioError('ENOENT')
    }
  }

  rename(from: string, to: string): void {
    const contents = this.contents(from)
    if (contents === undefined) {
      throw ioError('ENOENT')
    }
    this.#files.delete(this.absolute(from))
    this.#files.set(this.absolute(to), contents)
  }

  realPath(path: string): string | undefined {
    const absolute = this.absolute(path)
    return this.#files.has(absolute) ? absolute : undefined
  }

  createTemporary(prefix: string): string {
    const path = `/var/tmp/${prefix}.${String(this.#next++).padStart(6, '0')}`
    this.put(path)
    return path
  }

  absolute(path: string): string {
    const parts: string[] = []
    for (const part of (path.startsWith('/') ? path : `/${path}`).split('/')) {
      if (part === '..') {
        parts.pop()
      } else if (part !== '' && part !== '.') {
        parts.push(part)
      }
    }
    return `/${parts.join('/')}`
  }

  readWhole(path: string, limit: number): Uint8Array {
    const contents = this.contents(path)
    if (contents === undefined) {
      throw ioError('ENOENT')
    }
    if (contents.size > limit) {
      throw ioError('EFBIG')
    }
    return contents.bytes()
  }
}

const noCodecs: HostCodecs = {
  deflate(): Codec {
    throw blockError('ENOTSUP', 'This platform has no deflate codec')
  },
  zstd(): Codec {
    throw blockError('ENOTSUP', 'This platform has no zstd codec')
  },
}
