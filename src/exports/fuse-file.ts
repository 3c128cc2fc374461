import { errnoError, errnoNumber, isBlockError } from '../errors/index.js'
import {
  attributesReply,
  FallocateMode,
  FuseReply,
  FuseRequest,
  InitFlag,
  Opcode,
  SetAttr,
  version,
  Whence,
} from '../fuse/index.js'
import { allocatedSize, type Backend, Perm, truncateNode } from '../graph/index.js'
import type { FuseChannel } from '../host/index.js'
import { BlockStatus } from '../io/index.js'
import { Mutex, TimeSlice } from '../sched/index.js'

/** Largest request for data, bytes. */
export const maxTransferBytes = 1 << 20
/** Bytes of the largest range given to the image in one request. */
const maxRange = 1 << 30

const regularFile = 0o100000
/** What programs are told to read and write at a time at least, bytes. */
const pageBytes = 4096

/** Lengths of images are whole sectors. */
function wholeSectors(length: number): number {
  return Math.ceil(length / 512) * 512
}

export interface FuseFileOptions {
  readonly writable: boolean
  /** Writes behind the end make the image longer. */
  readonly growable: boolean
  /** Other users reach the file; its owner and mode may be changed for them. */
  readonly allowOther: boolean
  readonly user: number
  readonly group: number
}

/** A backend as one regular file, which is the root of a mounted file system. Requests may overlap. */
export class FuseFile {
  readonly #backend: Backend
  readonly #channel: FuseChannel
  readonly #options: FuseFileOptions
  readonly #running = new Set<Promise<void>>()
  /** Changes of the length go one after the other. */
  readonly #resizing = new Mutex()
  readonly #time = Math.floor(Date.now() / 1000)
  #mode: number
  #user: number
  #group: number

  constructor(backend: Backend, channel: FuseChannel, options: FuseFileOptions) {
    this.#backend = backend
    this.#channel = channel
    this.#options = options
    this.#mode = regularFile | (options.writable ? 0o600 : 0o400)
    this.#user = options.user
    this.#group = options.group
  }

  /** Answers requests until the file is not mounted any more and the last one is answered. */
  async serve(): Promise<void> {
    const slice = new TimeSlice()
    for (;;) {
      const next = this.#channel.receive()
      const bytes = next instanceof Promise ? await next : next
      if (bytes === undefined) {
        break
      }
      const request = FuseRequest.parse(bytes)
      if (request !== undefined) {
        this.#start(request)
      }
      const pause = slice.breathe()
      if (pause !== undefined) {
        await pause
      }
    }
    while (this.#running.size > 0) {
      await Promise.all(this.#running)
    }
  }

  #start(request: FuseRequest): void {
    const done: Promise<void> = this.#handle(request)
      .catch((error: unknown) => {
        this.#fail(request, isBlockError(error) ? errnoNumber(error.code) : errnoNumber('EIO'))
      })
      .finally(() => {
        this.#running.delete(done)
      })
    this.#running.add(done)
  }

  #fail(request: FuseRequest, errno: number): void {
    this.#channel.reply(new FuseReply(request.unique, 0, 0, errno).bytes)
  }

  #succeed(request: FuseRequest): void {
    this.#channel.reply(new FuseReply(request.unique, 0).bytes)
  }

  async #handle(request: FuseRequest): Promise<void> {
    const { opcode, unique } = request
    if (!request.isComplete) {
      this.#fail(request, errnoNumber('EINVAL'))
      return
    }
    switch (opcode) {
      case Opcode.forget:
      case Opcode.batchForget:
      case Opcode.interrupt:
        // Nobody waits for an answer.
        return
      case Opcode.init:
        this.#init(request)
        return
      case Opcode.getattr:
        await this.#attributes(unique)
        return
      case Opcode.setattr:
        await this.#setAttributes(request)
        return
      case Opcode.open:
        this.#channel.reply(new FuseReply(unique, 16).bytes)
        return
      case Opcode.read:
        await this.#read(request)
        return
      case Opcode.write:
        await this.#write(request)
        return
      case Opcode.flush:
      case Opcode.fsync:
        await this.#backend.flush()
        this.#succeed(request)
        return
      case Opcode.release:
      case Opcode.destroy:
        this.#succeed(request)
        return
      case Opcode.statfs:
        this.#channel.reply(new FuseReply(unique, 80).u32(40, 512).u32(44, 255).u32(48, 512).bytes)
        return
      case Opcode.fallocate:
        await this.#fallocate(request)
        return
      case Opcode.lseek:
        await this.#seek(request)
        return
      default:
        this.#fail(request, errnoNumber(opcode === Opcode.lookup ? 'ENOENT' : 'ENOSYS'))
    }
  }

  #init(request: FuseRequest): void {
    const kernel = request.u32(0)
    if (kernel < version.major) {
      this.#fail(request, errnoNumber('EINVAL'))
      return
    }
    // Like a device, a disk keeps its length when a program opens it with O_TRUNC: OPEN ignores that.
    const wanted = InitFlag.asyncRead | InitFlag.atomicTruncate | InitFlag.bigWrites | InitFlag.maxPages
    const reply = new FuseReply(request.unique, 64)
      .u32(0, version.major)
      .u32(4, version.minor)
      .u32(8, request.u32(8))
      .u32(12, request.u32(12) & wanted)
      .u16(16, 16)
      .u16(18, 12)
      .u32(20, maxTransferBytes)
      .u32(24, 1)
      .u16(28, maxTransferBytes / 4096)
    this.#channel.reply(reply.bytes)
  }

  async #attributes(unique: bigint): Promise<void> {
    const { node } = this.#backend
    let allocated = node.length
    try {
      allocated = await allocatedSize(node)
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
    }
    const reply = attributesReply(unique, {
      size: this.#backend.length,
      allocated,
      mode: this.#mode,
      user: this.#user,
      group: this.#group,
      blockSize: Math.max(pageBytes, node.limits.requestAlignment),
      time: this.#time,
    })
    this.#channel.reply(reply)
  }

  async #setAttributes(request: FuseRequest): Promise<void> {
    const { writable, allowOther } = this.#options
    const changes = request.u32(0) & ~(SetAttr.handle | SetAttr.lockOwner)
    const forOthers = allowOther ? SetAttr.user | SetAttr.group : 0
    // Times are not kept; programs that set them need not fail.
    const times =
      SetAttr.accessTime | SetAttr.modifyTime | SetAttr.changeTime | SetAttr.accessNow | SetAttr.modifyNow
    if ((changes & ~(SetAttr.mode | SetAttr.size | forOthers | times)) !== 0) {
      throw errnoError('ENOTSUP', 'Attribute cannot be changed')
    }
    if ((changes & SetAttr.size) !== 0) {
      if (!writable) {
        throw errnoError('EACCES', 'Export is read-only')
      }
      await this.#resize(request.u64(16), true)
    }
    if ((changes & SetAttr.mode) !== 0) {
      // Nobody gets rights by this that the export does not have.
      this.#mode = regularFile | (request.u32(68) & (writable ? 0o777 : 0o555))
    }
    if ((changes & SetAttr.user) !== 0) {
      this.#user = request.u32(76)
    }
    if ((changes & SetAttr.group) !== 0) {
      this.#group = request.u32(80)
    }
    await this.#attributes(request.unique)
  }

  /** Changes the length; `shrink` allows shorter ones. */
  async #resize(length: number, shrink: boolean, preallocation: 'off' | 'falloc' = 'off'): Promise<void> {
    const backend = this.#backend
    await this.#resizing.run(async () => {
      if (!shrink && length <= backend.length) {
        return
      }
      const { perm } = backend
      if ((perm & Perm.resize) === 0) {
        await backend.setPermissions(perm | Perm.resize, backend.shared)
      }
      try {
        await truncateNode(backend.node, length, { exact: true, preallocation, zero: true })
      } finally {
        if ((perm & Perm.resize) === 0) {
          await backend.setPermissions(perm, backend.shared)
        }
      }
    })
  }

  async #read(request: FuseRequest): Promise<void> {
    const offset = request.u64(8)
    const size = request.u32(16)
    if (size > maxTransferBytes) {
      throw errnoError('EINVAL', 'Read is too long')
    }
    const bytes = Math.max(0, Math.min(size, this.#backend.length - offset))
    const buffer = new Uint8Array(bytes)
    if (bytes > 0) {
      const wait = this.#backend.read(offset, bytes, buffer)
      if (wait !== undefined) {
        await wait
      }
    }
    this.#channel.reply(new FuseReply(request.unique, 0, bytes).bytes, buffer)
  }

  async #write(request: FuseRequest): Promise<void> {
    const { writable, growable } = this.#options
    if (!writable) {
      throw errnoError('EACCES', 'Export is read-only')
    }
    const offset = request.u64(8)
    const data = request.rest(40)
    const size = request.u32(16)
    if (size > data.length || size > maxTransferBytes) {
      throw errnoError('EINVAL', 'Write is too long')
    }
    let bytes = size
    if (offset + size > this.#backend.length) {
      if (growable) {
        await this.#resize(wholeSectors(offset + size), false)
      } else {
        bytes = Math.max(0, this.#backend.length - offset)
      }
    }
    if (bytes > 0) {
      const wait = this.#backend.write(offset, bytes, data)
      if (wait !== undefined) {
        await wait
      }
    }
    this.#channel.reply(new FuseReply(request.unique, 8).u32(0, bytes).bytes)
  }

  async #fallocate(request: FuseRequest): Promise<void> {
    const offset = request.u64(8)
    const length = request.u64(16)
    const mode = request.u32(24)
    const backend = this.#backend
    if (!this.#options.writable) {
      throw errnoError('EACCES', 'Export is read-only')
    }
    const end = offset + length
    const keep = (mode & FallocateMode.keepSize) !== 0
    const kind = mode & ~FallocateMode.keepSize
    if (kind === FallocateMode.punchHole) {
      if (!keep) {
        throw errnoError('EINVAL', 'Holes do not change the size')
      }
      await this.#ranges(offset, Math.min(end, backend.length), (at, bytes) => backend.discard(at, bytes))
    } else if (kind === FallocateMode.zeroRange) {
      if (!keep && end > backend.length) {
        await this.#resize(wholeSectors(end), false)
      }
      await this.#ranges(offset, Math.min(end, backend.length), (at, bytes) => backend.writeZeroes(at, bytes))
    } else if (mode === 0) {
      // Space is given at the end only, and makes the file longer.
      if (offset < backend.length) {
        throw errnoError('ENOTSUP', 'Space within the image is not allocated ahead')
      }
      await this.#resize(wholeSectors(offset), false)
      await this.#resize(wholeSectors(end), false, 'falloc')
    } else {
      throw errnoError('ENOTSUP', `Mode ${mode} is not supported`)
    }
    this.#succeed(request)
  }

  async #ranges(
    start: number,
    end: number,
    apply: (offset: number, bytes: number) => Promise<void> | undefined,
  ): Promise<void> {
    for (let at = start; at < end; at += maxRange) {
      const wait = apply(at, Math.min(maxRange, end - at))
      if (wait !== undefined) {
        await wait
      }
    }
  }

  async #seek(request: FuseRequest): Promise<void> {
    const offset = request.u64(8)
    const whence = request.u32(16)
    const { length, node } = this.#backend
    if (whence !== Whence.data && whence !== Whence.hole) {
      throw errnoError('EINVAL', 'Only data and holes are looked for here')
    }
    if (offset >= length) {
      throw errnoError('ENXIO', 'Offset is behind the end')
    }
    const status = new BlockStatus()
    let at = offset
    for (; at < length; at += status.bytes) {
      const wait = node.status(at, length - at, 'zero', status)
      if (wait !== undefined) {
        await wait
      }
      if (status.zero === (whence === Whence.hole) || status.bytes === 0) {
        break
      }
    }
    if (at >= length && whence === Whence.data) {
      throw errnoError('ENXIO', 'There is no data behind this')
    }
    this.#channel.reply(new FuseReply(request.unique, 8).u64(0, Math.min(at, length)).bytes)
  }
}
