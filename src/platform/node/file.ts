import fs from 'node:fs'
import { ioError } from '../../errors/index.js'
import type { FileAlignment, FileKind, FileStat, HostFile } from '../../host/index.js'
import type { Maybe, Wait } from '../../sched/index.js'
import { fromErrno, fromNode, isUnsupported } from './errors.js'
import { type Libc, libc } from './libc.js'

/**
 * How requests are carried out. `sync`: always on this thread, for programs that have nothing else
 * to do. `threads`: always on libuv's pool. `auto`: at once when the page cache can answer, on the
 * pool otherwise, so that no disk wait blocks the event loop.
 */
export type IoPolicy = 'auto' | 'sync' | 'threads'

const RWF_NOWAIT = 8
const SEEK_DATA = 3
const SEEK_HOLE = 4
const FALLOC_KEEP_SIZE = 1
const FALLOC_PUNCH_HOLE = 2
const FALLOC_ZERO_RANGE = 16
const F_OFD_GETLK = 36
const F_OFD_SETLK = 37
const BLKDISCARD = 0x1277
const BLKZEROOUT = 0x127f
const BLKGETSIZE64 = 0x80081272
const BLKSSZGET = 0x1268
const FS_IOC_GETFLAGS = 0x80086601
const FS_IOC_SETFLAGS = 0x40086602
const FS_NOCOW_FL = 0x00800000
const FS_IOC_FSGETXATTR = 0x801c581f
const FS_IOC_FSSETXATTR = 0x401c5820
const FS_XFLAG_EXTSIZE = 0x800

/** Largest read tried without waiting, bytes. */
const nowaitBytes = 1 << 20
/** Largest write done on this thread under `auto`, bytes: a copy into the page cache. */
const inlineWriteBytes = 1 << 16
/** Largest range handed to fallocate on this thread, bytes. */
const inlineAllocateBytes = 64 << 20
/** Largest in-kernel copy in one call, bytes. */
const copyBytes = 16 << 20

export function kindOf(stat: fs.Stats): FileKind {
  if (stat.isFile()) {
    return 'regular'
  }
  if (stat.isBlockDevice()) {
    return 'block'
  }
  if (stat.isCharacterDevice()) {
    return 'char'
  }
  if (stat.isDirectory()) {
    return 'directory'
  }
  return stat.isFIFO() ? 'fifo' : stat.isSocket() ? 'socket' : 'other'
}

const addresses = new WeakMap<ArrayBufferLike, bigint>()

/** Address of a buffer's memory; asked for once per ArrayBuffer, because asking is not free. */
function addressOf(c: Libc, buffer: Uint8Array): bigint {
  const memory = buffer.buffer
  let base = addresses.get(memory)
  if (base === undefined) {
    base = c.address(new Uint8Array(memory))
    addresses.set(memory, base)
  }
  return base + BigInt(buffer.byteOffset)
}

/** One iovec, filled in place for each request. */
const iovec = new Uint8Array(16)
const iovecWords = new BigUint64Array(iovec.buffer)
let lastMemory: ArrayBufferLike | undefined
let lastBase = 0n

export class NodeFile implements HostFile {
  readonly path: string
  readonly kind: FileKind
  readonly writable: boolean
  readonly alignment: FileAlignment
  readonly fd: number
  readonly #policy: IoPolicy
  readonly #identity: string
  readonly #direct: boolean
  #nowait: boolean
  #closed = false

  constructor(path: string, fd: number, writable: boolean, direct: boolean, policy: IoPolicy) {
    this.path = path
    this.fd = fd
    this.writable = writable
    this.#direct = direct
    this.#policy = policy
    const stat = fs.fstatSync(fd)
    this.kind = kindOf(stat)
    this.#identity = `${stat.dev}:${stat.ino}`
    this.#nowait = policy === 'auto' && !direct && this.kind === 'regular'
    this.alignment = direct ? this.#probeAlignment() : { request: 1, memory: 1 }
  }

  #probeAlignment(): FileAlignment {
    const c = libc()
    if (this.kind === 'block' && c !== undefined) {
      const size = new Uint8Array(4)
      if (c.ioctl(this.fd, BLKSSZGET, size) === 0) {
        const logical = new DataView(size.buffer).getInt32(0, true)
        return { request: logical, memory: logical }
      }
    }
    for (const align of [512, 1024, 2048, 4096]) {
      try {
        fs.readSync(this.fd, alignedBuffer(align, 4096), 0, align, 0)
        return { request: align, memory: align }
      } catch {
        // Too fine for this file: try the next coarser one.
      }
    }
    return { request: 4096, memory: 4096 }
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    if (this.#direct && !isAligned(buffer, bufferOffset, this.alignment.memory)) {
      return this.#readBounced(offset, bytes, buffer, bufferOffset)
    }
    if (this.#policy === 'sync') {
      this.#readSync(offset, bytes, buffer, bufferOffset)
      return undefined
    }
    let done = 0
    if (this.#nowait && bytes <= nowaitBytes) {
      done = this.#readNow(offset, bytes, buffer, bufferOffset)
      if (done === bytes) {
        return undefined
      }
    }
    return this.#readPool(offset + done, bytes - done, buffer, bufferOffset + done)
  }

  /** Reads what the page cache holds; returns how many bytes from the start are done. */
  #readNow(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): number {
    const c = libc()
    if (c === undefined) {
      this.#nowait = false
      return 0
    }
    const memory = buffer.buffer
    if (memory !== lastMemory) {
      lastBase = addressOf(c, new Uint8Array(memory))
      lastMemory = memory
    }
    iovecWords[0] = lastBase + BigInt(buffer.byteOffset + bufferOffset)
    iovecWords[1] = BigInt(bytes)
    const got = c.preadv2(this.fd, iovec, 1, offset, RWF_NOWAIT)
    if (got === bytes) {
      return bytes
    }
    if (got < 0) {
      const number = c.errno()
      if (number === 95 || number === 38 || number === 22) {
        this.#nowait = false
      }
      return 0
    }
    // Short: either the rest is not cached, or the file ends here.
    if (offset + got >= this.size()) {
      buffer.fill(0, bufferOffset + got, bufferOffset + bytes)
      return bytes
    }
    return got
  }

  #readSync(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void {
    try {
      for (let done = 0; done < bytes; ) {
        const got = fs.readSync(this.fd, buffer, bufferOffset + done, bytes - done, offset + done)
        if (got === 0) {
          buffer.fill(0, bufferOffset + done, bufferOffset + bytes)
          return
        }
        done += got
      }
    } catch (error) {
      throw fromNode(error)
    }
  }

  #readPool(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const next = (done: number): void => {
        fs.read(this.fd, buffer, bufferOffset + done, bytes - done, offset + done, (error, got) => {
          if (error !== null) {
            reject(fromNode(error))
          } else if (got === 0) {
            buffer.fill(0, bufferOffset + done, bufferOffset + bytes)
            resolve()
          } else if (done + got === bytes) {
            resolve()
          } else {
            next(done + got)
          }
        })
      }
      next(0)
    })
  }

  async #readBounced(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    const aligned = alignedBuffer(this.alignment.memory, bytes)
    await this.#readPool(offset, bytes, aligned, 0)
    buffer.set(aligned.subarray(0, bytes), bufferOffset)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    if (this.#direct && !isAligned(buffer, bufferOffset, this.alignment.memory)) {
      const aligned = alignedBuffer(this.alignment.memory, bytes)
      aligned.set(buffer.subarray(bufferOffset, bufferOffset + bytes))
      return this.#writePool(offset, bytes, aligned, 0)
    }
    const inline =
      this.#policy === 'auto' && !this.#direct && this.kind === 'regular' && bytes <= inlineWriteBytes
    if (this.#policy === 'sync' || inline) {
      this.#writeSync(offset, bytes, buffer, bufferOffset)
      return undefined
    }
    return this.#writePool(offset, bytes, buffer, bufferOffset)
  }

  #writeSync(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void {
    try {
      for (let done = 0; done < bytes; ) {
        const put = fs.writeSync(this.fd, buffer, bufferOffset + done, bytes - done, offset + done)
        if (put === 0) {
          throw ioError('ENOSPC')
        }
        done += put
      }
    } catch (error) {
      throw fromNode(error)
    }
  }

  #writePool(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const next = (done: number): void => {
        fs.write(this.fd, buffer, bufferOffset + done, bytes - done, offset + done, (error, put) => {
          if (error !== null) {
            reject(fromNode(error))
          } else if (put === 0) {
            reject(ioError('ENOSPC'))
          } else if (done + put === bytes) {
            resolve()
          } else {
            next(done + put)
          }
        })
      }
      next(0)
    })
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
    return new Promise((resolve, reject) => {
      fs.fdatasync(this.fd, (error) => {
        if (error === null) {
          resolve()
        } else {
          reject(fromNode(error))
        }
      })
    })
  }

  stat(): FileStat {
    const stat = this.#fstat()
    return {
      kind: this.kind,
      size: this.kind === 'block' ? this.#deviceSize() : stat.size,
      allocated: stat.blocks * 512,
      blockSize: stat.blksize,
      identity: this.#identity,
    }
  }

  #fstat(): fs.Stats {
    try {
      return fs.fstatSync(this.fd)
    } catch (error) {
      throw fromNode(error)
    }
  }

  size(): number {
    return this.kind === 'block' ? this.#deviceSize() : this.#fstat().size
  }

  #deviceSize(): number {
    const c = libc()
    const size = new Uint8Array(8)
    if (c === undefined || c.ioctl(this.fd, BLKGETSIZE64, size) !== 0) {
      throw ioError('ENOTSUP')
    }
    return Number(new DataView(size.buffer).getBigUint64(0, true))
  }

  truncate(length: number): Wait {
    try {
      fs.ftruncateSync(this.fd, length)
    } catch (error) {
      throw fromNode(error)
    }
    return undefined
  }

  #fallocate(mode: number, offset: number, bytes: number): Maybe<boolean> {
    const c = libc()
    if (c === undefined) {
      return false
    }
    const judge = (number: number): boolean => {
      if (number === 0) {
        return true
      }
      // EINVAL: the file system has no such mode for this file.
      if (isUnsupported(number) || (mode !== 0 && number === 22)) {
        return false
      }
      throw fromErrno(number)
    }
    if (this.#policy !== 'sync' && bytes > inlineAllocateBytes) {
      return c.fallocateAsync(this.fd, mode, offset, bytes).then(judge)
    }
    return judge(c.fallocate(this.fd, mode, offset, bytes) === 0 ? 0 : c.errno())
  }

  #deviceRange(request: number, offset: number, bytes: number): Maybe<boolean> {
    const c = libc()
    if (c === undefined) {
      return false
    }
    const range = new Uint8Array(16)
    const view = new DataView(range.buffer)
    view.setBigUint64(0, BigInt(offset), true)
    view.setBigUint64(8, BigInt(bytes), true)
    return c.ioctlAsync(this.fd, request, range).then((number) => {
      if (number === 0) {
        return true
      }
      if (isUnsupported(number)) {
        return false
      }
      throw fromErrno(number)
    })
  }

  allocate(offset: number, bytes: number): Maybe<boolean> {
    return this.kind === 'regular' ? this.#fallocate(0, offset, bytes) : false
  }

  punchHole(offset: number, bytes: number): Maybe<boolean> {
    return this.#fallocate(FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, bytes)
  }

  zeroRange(offset: number, bytes: number): Maybe<boolean> {
    return this.kind === 'block'
      ? this.#deviceRange(BLKZEROOUT, offset, bytes)
      : this.#fallocate(FALLOC_ZERO_RANGE, offset, bytes)
  }

  discardDevice(offset: number, bytes: number): Maybe<boolean> {
    return this.kind === 'block' ? this.#deviceRange(BLKDISCARD, offset, bytes) : false
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
    // ENXIO: nothing from here to the end.
    return c.errno() === 6 ? -1 : undefined
  }

  copyTo(offset: number, target: HostFile, targetOffset: number, bytes: number): Maybe<number | undefined> {
    const c = libc()
    if (
      c === undefined ||
      !(target instanceof NodeFile) ||
      this.kind !== 'regular' ||
      target.kind !== 'regular'
    ) {
      return undefined
    }
    const length = Math.min(bytes, copyBytes)
    const judge = (result: number): number | undefined => {
      if (result >= 0) {
        return result
      }
      // EXDEV, EINVAL, ETXTBSY: this pair cannot.
      if (isUnsupported(-result) || result === -18 || result === -22 || result === -26) {
        return undefined
      }
      throw fromErrno(-result)
    }
    if (this.#policy === 'sync') {
      const result = c.copyFileRange(this.fd, offset, target.fd, targetOffset, length)
      return judge(result >= 0 ? result : -c.errno())
    }
    return c.copyFileRangeAsync(this.fd, offset, target.fd, targetOffset, length).then(judge)
  }

  setNoCopyOnWrite(): void {
    const c = libc()
    const flags = new Uint8Array(8)
    if (c !== undefined && c.ioctl(this.fd, FS_IOC_GETFLAGS, flags) === 0) {
      const view = new DataView(flags.buffer)
      view.setInt32(0, view.getInt32(0, true) | FS_NOCOW_FL, true)
      c.ioctl(this.fd, FS_IOC_SETFLAGS, flags)
    }
  }

  setExtentSizeHint(bytes: number): boolean {
    const c = libc()
    const attributes = new Uint8Array(28)
    if (c === undefined || c.ioctl(this.fd, FS_IOC_FSGETXATTR, attributes) !== 0) {
      return false
    }
    const view = new DataView(attributes.buffer)
    const flags = view.getUint32(0, true)
    view.setUint32(0, bytes === 0 ? flags & ~FS_XFLAG_EXTSIZE : flags | FS_XFLAG_EXTSIZE, true)
    view.setUint32(4, bytes, true)
    return c.ioctl(this.fd, FS_IOC_FSSETXATTR, attributes) === 0
  }

  dropCache(offset: number, bytes: number): void {
    // POSIX_FADV_DONTNEED
    libc()?.fadvise(this.fd, offset, bytes, 4)
  }

  get canLock(): boolean {
    return libc() !== undefined && this.kind !== 'directory'
  }

  setLock(start: number, length: number, mode: 'shared' | 'exclusive' | 'none'): boolean {
    const c = libc()
    if (c === undefined) {
      return true
    }
    const lock = flock(mode === 'none' ? 2 : mode === 'shared' ? 0 : 1, start, length)
    if (c.fcntl(this.fd, F_OFD_SETLK, lock) === 0) {
      return true
    }
    const number = c.errno()
    // EAGAIN or EACCES: held by someone else.
    if (number === 11 || number === 13) {
      return false
    }
    throw fromErrno(number)
  }

  lockConflicts(start: number, length: number, mode: 'shared' | 'exclusive'): boolean {
    const c = libc()
    if (c === undefined) {
      return false
    }
    const lock = flock(mode === 'shared' ? 0 : 1, start, length)
    if (c.fcntl(this.fd, F_OFD_GETLK, lock) !== 0) {
      throw fromErrno(c.errno())
    }
    // F_UNLCK: nobody stands in the way.
    return new DataView(lock.buffer).getInt16(0, true) !== 2
  }

  close(): Wait {
    if (this.#closed) {
      return undefined
    }
    this.#closed = true
    try {
      fs.closeSync(this.fd)
    } catch (error) {
      throw fromNode(error)
    }
    return undefined
  }
}

/** A `struct flock` of 64-bit Linux: type, whence, start, length, pid. */
function flock(type: number, start: number, length: number): Uint8Array {
  const bytes = new Uint8Array(32)
  const view = new DataView(bytes.buffer)
  view.setInt16(0, type, true)
  view.setBigInt64(8, BigInt(start), true)
  view.setBigInt64(16, BigInt(length), true)
  return bytes
}

/** Memory whose first byte has an address that is a multiple of `align`. */
export function alignedBuffer(align: number, bytes: number): Uint8Array {
  const memory = new Uint8Array(bytes + align)
  const c = libc()
  if (c === undefined) {
    return memory.subarray(0, bytes)
  }
  const skip = Number((BigInt(align) - (addressOf(c, memory) % BigInt(align))) % BigInt(align))
  return memory.subarray(skip, skip + bytes)
}

function isAligned(buffer: Uint8Array, offset: number, align: number): boolean {
  const c = libc()
  return align === 1 || (c !== undefined && (addressOf(c, buffer) + BigInt(offset)) % BigInt(align) === 0n)
}
