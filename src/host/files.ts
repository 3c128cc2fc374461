import type { Maybe, Wait } from '../sched/index.js'
import type { HostZones } from './zones.js'

export type FileKind = 'regular' | 'block' | 'char' | 'fifo' | 'socket' | 'directory' | 'other'

export interface FileStat {
  readonly kind: FileKind
  /** Bytes; for block devices the device's size. */
  readonly size: number
  /** Bytes the file occupies on its file system. */
  readonly allocated: number
  /** Preferred I/O size in bytes. */
  readonly blockSize: number
  /** Identifies the file: equal for two names of one file. */
  readonly identity: string
}

export interface FileOpenOptions {
  readonly write?: boolean
  /** Bypass the page cache (O_DIRECT); requests and memory must then be aligned. */
  readonly direct?: boolean
  readonly create?: boolean
  readonly truncate?: boolean
  /** Fail with EEXIST if the file exists; with `create`. */
  readonly exclusive?: boolean
  /**
   * How requests that may have to wait reach the kernel, as QEMU's option `aio` says; a platform that lacks the
   * way uses another. Absent: the platform decides.
   */
  readonly aio?: 'threads' | 'native' | 'io_uring' | undefined
  /** Whether {@link HostFile.sync} is never called, or without effect; default false. */
  readonly noSync?: boolean
  /** Permission bits of a created file; default 0o644. */
  readonly mode?: number
}

/** Alignment of requests in bytes; 1 = any. */
export interface FileAlignment {
  readonly request: number
  readonly memory: number
}

/**
 * An open file or device. Offsets and lengths are bytes and safe integers; buffers belong to the
 * caller and must stay untouched until the returned wait settles. All failures are BlockErrors
 * carrying the errno; nothing is retried by the caller for EINTR or short transfers.
 *
 * Operations that the platform lacks are reported as `false`/`undefined`, not as exceptions.
 */
export interface HostFile {
  readonly path: string
  readonly kind: FileKind
  readonly writable: boolean
  readonly alignment: FileAlignment
  /** Of a zoned block device; absent: there are none. */
  readonly zones?: HostZones | undefined

  /** Fills `buffer[bufferOffset, +bytes)`; what lies past the end of the file reads as zeroes. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait
  /** Writes all bytes, growing the file if needed. Durable only after {@link sync}. */
  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait
  /** Everything written before is on stable storage afterwards (fdatasync). */
  sync(): Wait
  stat(): FileStat
  /** Current size in bytes; cheaper than {@link stat}. */
  size(): number
  truncate(length: number): Wait

  /** Allocates `[offset, +bytes)` without changing the size if it lies within; grows the file otherwise. False: not supported here. */
  allocate(offset: number, bytes: number): Maybe<boolean>
  /** Deallocates the range, which reads as zeroes afterwards; the size stays. False: not supported here. */
  punchHole(offset: number, bytes: number): Maybe<boolean>
  /** Zeroes the range without writing data; it stays or becomes allocated; may grow the file. False: not supported here. */
  zeroRange(offset: number, bytes: number): Maybe<boolean>
  /** Tells a device that the range is unused (BLKDISCARD). False: not supported here. */
  discardDevice(offset: number, bytes: number): Maybe<boolean>

  /**
   * First byte at or after `offset` that is data; `-1` if none is (ENXIO);
   * `undefined` if the platform or file system cannot tell.
   */
  seekData(offset: number): number | undefined
  /** First byte at or after `offset` in a hole; the end of the file is a hole. `-1` past the end; `undefined`: cannot tell. */
  seekHole(offset: number): number | undefined

  /**
   * Copies within the kernel into `target` (copy_file_range). Returns the bytes copied, possibly
   * fewer than asked and 0 at the end of this file; `undefined`: not possible between these two.
   */
  copyTo(offset: number, target: HostFile, targetOffset: number, bytes: number): Maybe<number | undefined>

  /** Turns copy-on-write off for a new, empty file, where the file system has such a thing. */
  setNoCopyOnWrite?(): void
  /** Asks for extents of `bytes` (0: no wish). False: the file system has no such thing. */
  setExtentSizeHint?(bytes: number): boolean

  /** Drops cached pages of the range, if the platform can. */
  dropCache(offset: number, bytes: number): void

  /**
   * Takes (`'shared'`, `'exclusive'`) or gives back (`'none'`) an open-file-description lock on
   * `[start, +length)`. False: someone else holds a conflicting lock. Without platform support: true.
   */
  setLock(start: number, length: number, mode: 'shared' | 'exclusive' | 'none'): boolean
  /** Whether someone else holds a lock that conflicts with taking this one. */
  lockConflicts(start: number, length: number, mode: 'shared' | 'exclusive'): boolean
  /** Whether {@link setLock} really locks on this platform and file. */
  readonly canLock: boolean

  close(): Wait
}

/** What stands in a folder. Times are milliseconds since 1970. */
export interface FolderEntry {
  readonly name: string
  readonly kind: FileKind
  /** Bytes. */
  readonly size: number
  readonly modified: number
  readonly changed: number
  readonly accessed: number
}

/** The file system a block layer works on. Names are the platform's own. */
export interface HostFiles {
  open(path: string, options?: FileOpenOptions): Maybe<HostFile>
  /** `undefined` if nothing has this name; other failures throw. Follows links. */
  stat(path: string): FileStat | undefined
  unlink(path: string): void
  rename(from: string, to: string): void
  /** Gives `to` the mode of `from`, and its owner where that is allowed. Absent: there are none. */
  copyPermissions?(from: string, to: string): void
  /** Absolute path with links resolved; `undefined` if it does not exist. */
  realPath(path: string): string | undefined
  /** Creates an empty file with a unique name made from `prefix`, mode 0600, and returns its path (seed L439-469). */
  createTemporary(prefix: string): string
  /** Absolute form of `path` without touching the file system. */
  absolute(path: string): string
  /** Whole small file as bytes; `limit` bytes at most, else EFBIG. */
  readWhole(path: string, limit: number): Uint8Array
  /**
   * What stands in a folder, in the order the file system has it, `.` and `..` first. Links are followed; what
   * cannot be looked at is left out. Absent: folders cannot be listed.
   */
  list?(path: string): readonly FolderEntry[]
  /** Makes an empty folder. Absent: there are none. */
  makeFolder?(path: string): void
  /** Removes an empty folder. */
  removeFolder?(path: string): void
  /** The names in a folder are on stable storage afterwards. Absent: they cannot be told to. */
  syncFolder?(path: string): void
}
