import fs from 'node:fs'
import { ioError } from '../../errors/index.js'
import type { FileAlignment, FileKind, FileStat, HostFile, HostZones } from '../../host/index.js'
import type { Maybe, Wait } from '../../sched/index.js'
import type { AioBackend, AioMode } from './aio-backend.js'
import type { AioBackends } from './aio-backends.js'
import { giveAligned, takeAligned } from './aligned-pool.js'
import { setExtentSizeHint, setNoCopyOnWrite } from './attributes.js'
import { Errno, fromNode } from './errors.js'
import { describe, identityOf, kindOf, publishedDeviceSize } from './file-stat.js'
import { libc } from './libc.js'
import { alignedBuffer, isAligned } from './memory.js'
import { lockConflicts, setLock } from './ofd-locks.js'
import {
  copyRange,
  DeviceIoctl,
  deviceRange,
  Fallocate,
  fallocate,
  inlineAllocateBytes,
  logicalBlockSize,
} from './space.js'
import { readCached, readSync, writeSync } from './transfer.js'
import { WriteRun } from './write-run.js'
import { zonesOf } from './zones.js'

/**
 * How requests are carried out. `sync`: always on this thread. `threads`: never, but by a backend
 * (aio-backend.ts). `auto`: at once when the page cache can answer, by a backend otherwise, so that no disk
 * wait blocks the event loop. `foreground`: as `auto`, but writes to the page cache of any size are done on this
 * thread; for programs that have nothing else to do meanwhile. Handing a buffer that was just read to
 * another thread costs more than copying it: measured, docs/decisions/0005.
 */
export type IoPolicy = 'auto' | 'foreground' | 'sync' | 'threads'

const SEEK_END = 2
const SEEK_DATA = 3
const SEEK_HOLE = 4
const POSIX_FADV_DONTNEED = 4

/** Largest read tried without waiting, bytes. */
const cachedReadBytes = 4 << 20
/** Largest write done on this thread under `auto`, bytes: a copy into the page cache. */
const inlineWriteBytes = 1 << 16
/** Alignments tried for O_DIRECT, and what is assumed if the file does not tell. Bytes. */
const alignments = [1, 512, 1024, 2048, 4096]
const safeAlignment = 4096

export interface NodeFileOptions {
  readonly writable: boolean
  /** Whether the descriptor was opened with O_DIRECT. */
  readonly direct: boolean
  readonly policy: IoPolicy
  readonly backends: AioBackends
  /** The backend wished for; absent: what is fastest here. */
  readonly aio: AioMode | undefined
  /** Whether syncs of what is written are to be expected. */
  readonly willSync: boolean
}

/** A view of a file whose system calls another thread makes. */
export interface OnThread {
  readonly base: NodeFile
}

/** The file of this platform that `file` is or is a view of; undefined for files of others. */
export function nodeFileOf(file: HostFile): NodeFile | undefined {
  if (file instanceof NodeFile) {
    return file
  }
  const { base } = file as Partial<OnThread>
  return base instanceof NodeFile ? base : undefined
}

/** A file of Node's file system. It owns the descriptor. */
export class NodeFile implements HostFile {
  readonly path: string
  readonly kind: FileKind
  readonly writable: boolean
  readonly alignment: FileAlignment
  readonly zones: HostZones | undefined
  readonly fd: number
  readonly #policy: IoPolicy
  readonly #identity: string
  readonly #direct: boolean
  /** Whether reads that do not wait are worth trying; cleared when the file refuses them. */
  #cachedReads: boolean
  /** Largest write done on this thread, bytes. */
  readonly #inlineWriteBytes: number
  /** Absent where writes do not go through the page cache of a file system. */
  readonly #writeRun: WriteRun | undefined
  readonly #backends: AioBackends
  readonly #aio: AioMode
  /** The backend in use, from the first request on that needs one. */
  #backend: AioBackend | undefined = undefined
  #closed = false

  /** @throws BlockError; the descriptor stays the caller's then */
  constructor(path: string, fd: number, options: NodeFileOptions) {
    this.path = path
    this.fd = fd
    this.writable = options.writable
    this.#direct = options.direct
    this.#policy = options.policy
    this.#backends = options.backends
    const stat = this.#fstat()
    this.kind = kindOf(stat)
    this.zones = this.kind === 'block' ? zonesOf(fd, stat) : undefined
    this.#identity = identityOf(stat)
    const seekable = this.kind === 'regular' || this.kind === 'block'
    // With O_DIRECT every request waits, and the pool has four threads: measured, bench/README.md.
    // On pipes and the like the ring would read on where the last read ended.
    this.#aio = seekable ? (options.aio ?? (this.#direct ? 'io_uring' : 'threads')) : 'threads'
    const foreground = this.#policy === 'foreground'
    const buffered = (foreground || this.#policy === 'auto') && !this.#direct
    this.#cachedReads = buffered && seekable
    this.#inlineWriteBytes =
      !buffered || this.kind !== 'regular' ? 0 : foreground ? Number.POSITIVE_INFINITY : inlineWriteBytes
    this.#writeRun =
      this.kind === 'regular' && this.writable && !this.#direct && this.#policy !== 'threads'
        ? new WriteRun(fd, options.willSync, this.#policy !== 'auto')
        : undefined
    this.alignment = this.#direct ? this.#probeAlignment() : { request: 1, memory: 1 }
  }

  /** Tries which requests O_DIRECT accepts here; the kernel has no portable way to ask. */
  #probeAlignment(): FileAlignment {
    const accepts = (length: number, buffer: Uint8Array): boolean => {
      try {
        fs.readSync(this.fd, buffer, 0, length, 0)
        return true
      } catch (error) {
        return fromNode(error).code !== 'EINVAL'
      }
    }
    // A file that takes any request, such as an empty one, shows nothing.
    const finest = (accepted: (align: number) => boolean): number => {
      const align = alignments.find(accepted) ?? safeAlignment
      return align === 1 ? safeAlignment : align
    }
    const logical = this.kind === 'block' ? logicalBlockSize(this.fd) : undefined
    const length = Math.max(safeAlignment, logical ?? 0)
    const buffer = alignedBuffer(safeAlignment, safeAlignment + length)
    return {
      request: logical ?? finest((align) => accepts(align, buffer)),
      memory: finest((align) => accepts(length, buffer.subarray(align))),
    }
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    checkRange(offset, bytes, buffer, bufferOffset)
    if (this.#direct && !isAligned(buffer, bufferOffset, this.alignment.memory)) {
      return this.#readBounced(offset, bytes, buffer, bufferOffset)
    }
    let done = 0
    if (this.#cachedReads && bytes <= cachedReadBytes) {
      done = this.#readNow(offset, bytes, buffer, bufferOffset)
      if (done === bytes) {
        return undefined
      }
    }
    return this.#transferIn(offset + done, bytes - done, buffer, bufferOffset + done)
  }

  /** Reads what the page cache holds; returns how many bytes from the start are done. */
  #readNow(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): number {
    const c = libc()
    if (c === undefined) {
      this.#cachedReads = false
      return 0
    }
    const got = readCached(c, this.fd, offset, bytes, buffer, bufferOffset)
    if (got === bytes) {
      return bytes
    }
    if (got < 0) {
      if (got === -Errno.EOPNOTSUPP || got === -Errno.ENOSYS || got === -Errno.EINVAL) {
        this.#cachedReads = false
      }
      // Other failures come again where they are reported.
      return 0
    }
    // Short: the rest is not cached, or the file ends here.
    if (offset + got >= this.size()) {
      buffer.fill(0, bufferOffset + got, bufferOffset + bytes)
      return bytes
    }
    return got
  }

  /** What carries out requests that may have to wait. */
  get #waiting(): AioBackend {
    this.#backend ??= this.#backends.acquire(this.#aio)
    return this.#backend
  }

  #transferIn(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    if (this.#policy === 'sync') {
      readSync(this.fd, offset, bytes, buffer, bufferOffset, this.alignment.request)
      return undefined
    }
    return this.#waiting.read(this.fd, offset, bytes, buffer, bufferOffset, this.alignment.request)
  }

  #readBounced(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const aligned = takeAligned(bytes)
    const arrived = (): void => {
      copyBytes(aligned, 0, buffer, bufferOffset, bytes)
      giveAligned(aligned)
    }
    const wait = this.#transferIn(offset, bytes, aligned, 0)
    if (wait === undefined) {
      arrived()
      return undefined
    }
    return wait.then(arrived)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    checkRange(offset, bytes, buffer, bufferOffset)
    if (this.#direct && !isAligned(buffer, bufferOffset, this.alignment.memory)) {
      const aligned = takeAligned(bytes)
      copyBytes(buffer, bufferOffset, aligned, 0, bytes)
      const wait = this.#transferOut(offset, bytes, aligned, 0)
      if (wait === undefined) {
        giveAligned(aligned)
      }
      // After a failure nobody knows what still looks at the memory: it is left to the collector.
      return wait?.then(() => {
        giveAligned(aligned)
      })
    }
    return this.#transferOut(offset, bytes, buffer, bufferOffset)
  }

  #transferOut(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    this.#writeRun?.next(offset, bytes)
    if (this.#policy === 'sync' || bytes <= this.#inlineWriteBytes) {
      writeSync(this.fd, offset, bytes, buffer, bufferOffset)
      return undefined
    }
    return this.#waiting.write(this.fd, offset, bytes, buffer, bufferOffset)
  }

  sync(): Wait {
    if (this.#policy === 'sync') {
      try {
        fs.fdatasyncSync(this.fd)
      } catch (error) {
        throw fromNode(error)
      }
      return undefined
    }
    return this.#waiting.sync(this.fd)
  }

  stat(): FileStat {
    const stat = this.#fstat()
    const size = this.kind === 'block' ? this.size() : Number(stat.size)
    return { ...describe(stat, size), identity: this.#identity }
  }

  #fstat(): fs.BigIntStats {
    try {
      return fs.fstatSync(this.fd, { bigint: true })
    } catch (error) {
      throw fromNode(error)
    }
  }

  size(): number {
    if (this.kind === 'regular' || this.kind === 'block') {
      // A quarter of fstat's price, and it knows the size of devices. No transfer uses the position.
      const end = libc()?.lseek(this.fd, 0, SEEK_END) ?? -1
      if (end >= 0) {
        return end
      }
    }
    const stat = this.#fstat()
    if (this.kind !== 'block') {
      return Number(stat.size)
    }
    const size = publishedDeviceSize(stat)
    if (size === undefined) {
      throw ioError('ENOTSUP')
    }
    return size
  }

  truncate(length: number): Wait {
    // Growing only changes a number; shrinking frees blocks, which can take long.
    if (this.#policy === 'sync' || length >= this.size()) {
      try {
        fs.ftruncateSync(this.fd, length)
      } catch (error) {
        throw fromNode(error)
      }
      return undefined
    }
    return new Promise((resolve, reject) => {
      fs.ftruncate(this.fd, length, (error) => {
        if (error === null) {
          resolve()
        } else {
          reject(fromNode(error))
        }
      })
    })
  }

  allocate(offset: number, bytes: number): Maybe<boolean> {
    return this.kind === 'regular' && this.#fallocate(Fallocate.allocate, offset, bytes)
  }

  punchHole(offset: number, bytes: number): Maybe<boolean> {
    return this.#fallocate(Fallocate.punchHole, offset, bytes)
  }

  zeroRange(offset: number, bytes: number): Maybe<boolean> {
    return this.kind === 'block'
      ? this.#deviceRange(DeviceIoctl.zeroOut, offset, bytes)
      : this.#fallocate(Fallocate.zeroRange, offset, bytes)
  }

  discardDevice(offset: number, bytes: number): Maybe<boolean> {
    return this.kind === 'block' && this.#deviceRange(DeviceIoctl.discard, offset, bytes)
  }

  // The kernel refuses empty ranges.
  #fallocate(mode: number, offset: number, bytes: number): Maybe<boolean> {
    const policy = this.#policy
    const inline = policy === 'sync' || (policy !== 'threads' && bytes <= inlineAllocateBytes)
    return bytes === 0 || fallocate(this.fd, mode, offset, bytes, inline ? undefined : this.#waiting)
  }

  #deviceRange(request: number, offset: number, bytes: number): Maybe<boolean> {
    return bytes === 0 || deviceRange(this.fd, request, offset, bytes, this.#policy === 'sync')
  }

  seekData(offset: number): number | undefined {
    return this.#seek(offset, SEEK_DATA)
  }

  seekHole(offset: number): number | undefined {
    return this.#seek(offset, SEEK_HOLE)
  }

  #seek(offset: number, whence: number): number | undefined {
    const c = libc()
    if (c === undefined || this.kind !== 'regular') {
      return undefined
    }
    const at = c.lseek(this.fd, offset, whence)
    if (at >= 0) {
      return at
    }
    return at === -Errno.ENXIO ? -1 : undefined
  }

  copyTo(offset: number, target: HostFile, targetOffset: number, bytes: number): Maybe<number | undefined> {
    const to = nodeFileOf(target)
    if (to?.kind !== 'regular' || this.kind !== 'regular') {
      return undefined
    }
    return copyRange(this.fd, offset, to.fd, targetOffset, bytes, this.#policy === 'sync')
  }

  setNoCopyOnWrite(): void {
    setNoCopyOnWrite(this.fd)
  }

  setExtentSizeHint(bytes: number): boolean {
    return setExtentSizeHint(this.fd, bytes)
  }

  dropCache(offset: number, bytes: number): void {
    libc()?.fadvise(this.fd, offset, bytes, POSIX_FADV_DONTNEED)
  }

  get canLock(): boolean {
    return this.kind !== 'directory' && libc() !== undefined
  }

  setLock(start: number, length: number, mode: 'shared' | 'exclusive' | 'none'): boolean {
    return setLock(this.fd, start, length, mode)
  }

  lockConflicts(start: number, length: number, mode: 'shared' | 'exclusive'): boolean {
    return lockConflicts(this.fd, start, length, mode)
  }

  close(): Wait {
    if (this.#closed) {
      return undefined
    }
    this.#closed = true
    return this.#writeRun?.settled()?.then(() => this.#close()) ?? this.#close()
  }

  #close(): Wait {
    let wait: Wait
    try {
      fs.closeSync(this.fd)
    } catch (error) {
      throw fromNode(error)
    } finally {
      wait = this.#backend === undefined ? undefined : this.#backends.release(this.#backend)
    }
    return wait
  }
}

function copyBytes(from: Uint8Array, at: number, to: Uint8Array, toAt: number, bytes: number): void {
  to.set(from.subarray(at, at + bytes), toAt)
}

/**
 * Requests are given to the kernel by address, so a range outside the buffer (or a buffer whose
 * memory was transferred away, which has length 0) would hit foreign memory. Node, on the other
 * hand, takes a negative offset for "at the current position".
 */
export function checkRange(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void {
  if (!(offset >= 0 && bytes >= 0 && bufferOffset >= 0 && bufferOffset + bytes <= buffer.length)) {
    throw new RangeError(
      `request at ${offset}, ${bytes} bytes, does not fit its buffer: ${bufferOffset} of ${buffer.length}`,
    )
  }
}
