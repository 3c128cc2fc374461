import type { Maybe } from '../../sched/index.js'
import type { AioBackend } from './aio-backend.js'
import { Errno, fromErrno, isUnsupported } from './errors.js'
import { libc } from './libc.js'

// Space of files and devices without moving data through this process: fallocate, discard,
// copy_file_range. `inline` asks for the work to be done on this thread.

/** Modes of fallocate(2). */
export const Fallocate = {
  allocate: 0,
  keepSize: 1,
  /** PUNCH_HOLE | KEEP_SIZE */
  punchHole: 3,
  zeroRange: 0x10,
} as const

/** Requests of ioctl(2) on block devices. */
export const DeviceIoctl = {
  discard: 0x1277,
  zeroOut: 0x127f,
  logicalBlockSize: 0x1268,
} as const

/** Largest range handed to fallocate on this thread if others wait for it, bytes. */
export const inlineAllocateBytes = 64 << 20
/** Largest copy in one call, bytes: limits how long a call takes. */
const copyBytes = 16 << 20

/** Judges a result now or when it comes. */
function judged<T>(result: Maybe<number>, judge: (result: number) => T): Maybe<T> {
  return typeof result === 'number' ? judge(result) : result.then(judge)
}

/** Repeats a call for as long as signals interrupt it. */
function uninterrupted(call: () => number): number {
  for (;;) {
    const result = call()
    if (result !== -Errno.EINTR) {
      return result
    }
  }
}

async function uninterruptedLater(call: () => Promise<number>): Promise<number> {
  for (;;) {
    const result = await call()
    if (result !== -Errno.EINTR) {
      return result
    }
  }
}

/**
 * fallocate(2). False: the file system does not have this mode.
 *
 * @param backend carries it out; undefined: this thread does
 */
export function fallocate(
  fd: number,
  mode: number,
  offset: number,
  bytes: number,
  backend: AioBackend | undefined,
): Maybe<boolean> {
  const c = libc()
  if (c === undefined) {
    return false
  }
  const judge = (result: number): boolean => {
    if (result >= 0) {
      return true
    }
    // EINVAL to a mode other than plain allocation: not with this file or range.
    if (isUnsupported(-result) || (mode !== Fallocate.allocate && result === -Errno.EINVAL)) {
      return false
    }
    throw fromErrno(-result)
  }
  if (backend === undefined) {
    return judge(uninterrupted(() => c.fallocate(fd, mode, offset, bytes)))
  }
  return uninterruptedLater(
    () => backend.fallocate(fd, mode, offset, bytes) ?? c.fallocateAsync(fd, mode, offset, bytes),
  ).then(judge)
}

/** An ioctl on a byte range of a block device. False: the device does not support it. */
export function deviceRange(
  fd: number,
  request: number,
  offset: number,
  bytes: number,
  inline: boolean,
): Maybe<boolean> {
  const c = libc()
  if (c === undefined) {
    return false
  }
  const range = new Uint8Array(BigUint64Array.of(BigInt(offset), BigInt(bytes)).buffer)
  const judge = (result: number): boolean => {
    if (result >= 0) {
      return true
    }
    if (isUnsupported(-result)) {
      return false
    }
    throw fromErrno(-result)
  }
  return judged(
    inline
      ? uninterrupted(() => c.ioctl(fd, request, range))
      : uninterruptedLater(() => c.ioctlAsync(fd, request, range)),
    judge,
  )
}

/** A block device's logical block size in bytes; undefined if it cannot be told. */
export function logicalBlockSize(fd: number): number | undefined {
  const size = new Uint32Array(1)
  const result = libc()?.ioctl(fd, DeviceIoctl.logicalBlockSize, new Uint8Array(size.buffer)) ?? -1
  const bytes = size[0] ?? 0
  return result >= 0 && bytes > 0 ? bytes : undefined
}

/** copy_file_range(2): bytes copied, or undefined if the kernel cannot copy between these two. */
export function copyRange(
  from: number,
  fromOffset: number,
  to: number,
  toOffset: number,
  bytes: number,
  inline: boolean,
): Maybe<number | undefined> {
  const c = libc()
  if (c === undefined) {
    return undefined
  }
  const length = Math.min(bytes, copyBytes)
  const judge = (result: number): number | undefined => {
    if (result >= 0) {
      return result
    }
    if (
      isUnsupported(-result) ||
      result === -Errno.EXDEV ||
      result === -Errno.EINVAL ||
      result === -Errno.ETXTBSY
    ) {
      return undefined
    }
    throw fromErrno(-result)
  }
  return judged(
    inline
      ? uninterrupted(() => c.copyFileRange(from, fromOffset, to, toOffset, length))
      : uninterruptedLater(() => c.copyFileRangeAsync(from, fromOffset, to, toOffset, length)),
    judge,
  )
}
