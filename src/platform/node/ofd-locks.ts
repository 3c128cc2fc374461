import { Errno, fromErrno } from './errors.js'
import { libc } from './libc.js'

const F_OFD_GETLK = 36
const F_OFD_SETLK = 37
const F_RDLCK = 0
const F_WRLCK = 1
const F_UNLCK = 2

/** The `struct flock` of 64-bit Linux: type i16, whence i16, padding, start i64, length i64, pid i32. */
function flock(type: number, start: number, length: number): Uint8Array {
  const bytes = new Uint8Array(32)
  const view = new DataView(bytes.buffer)
  view.setInt16(0, type, true)
  view.setBigInt64(8, BigInt(start), true)
  view.setBigInt64(16, BigInt(length), true)
  return bytes
}

/** Takes or gives back a lock of the open file description. False: someone else's conflicts with it. */
export function setLock(
  fd: number,
  start: number,
  length: number,
  mode: 'shared' | 'exclusive' | 'none',
): boolean {
  const c = libc()
  if (c === undefined) {
    return true
  }
  const type = mode === 'none' ? F_UNLCK : mode === 'shared' ? F_RDLCK : F_WRLCK
  const result = c.fcntl(fd, F_OFD_SETLK, flock(type, start, length))
  if (result >= 0) {
    return true
  }
  if (result === -Errno.EAGAIN || result === -Errno.EACCES) {
    return false
  }
  throw fromErrno(-result)
}

/** Whether another open file description holds a lock that conflicts with taking this one. */
export function lockConflicts(
  fd: number,
  start: number,
  length: number,
  mode: 'shared' | 'exclusive',
): boolean {
  const c = libc()
  if (c === undefined) {
    return false
  }
  const lock = flock(mode === 'shared' ? F_RDLCK : F_WRLCK, start, length)
  const result = c.fcntl(fd, F_OFD_GETLK, lock)
  if (result < 0) {
    throw fromErrno(-result)
  }
  return new DataView(lock.buffer).getInt16(0, true) !== F_UNLCK
}
