import fs from 'node:fs'
import type { Wait } from '../../sched/index.js'
import { Errno } from './errors.js'
import { type Libc, libc } from './libc.js'
import { Fallocate } from './space.js'

/** Magic number of ext4 in statfs(2). */
const ext4 = 0xef53
/** Smallest write whose blocks are worth a call of their own, bytes. */
const reservedBytes = 256 << 10
/** What is handed to the disk at a time, at least. Bytes. */
const pieceBytes = 16 << 20
/** How far a write may lie from the end of a run and still belong to it, bytes: jobs write out of order. */
const slackBytes = 4 << 20
const SYNC_FILE_RANGE_WRITE = 2

/**
 * What the kernel is told about writes of a regular file through the page cache, measured in docs/decisions/0015:
 *
 * - blocks of a large write are allocated before its data is copied: ext4 otherwise reserves them page by page, which
 *   costs as much as the copy. Other file systems do better alone.
 * - of a long run of writes, what is behind the last piece starts on its way to the disk, so that a later sync finds
 *   little to do.
 *
 * Neither changes length or contents, and nothing depends on either: failures show, or not, in the writes and syncs.
 */
export class WriteRun {
  readonly #fd: number
  readonly #libc: () => Libc | undefined
  readonly #inline: boolean
  #reserves: boolean | undefined
  #writesBack: boolean
  /** The run, as far as it is not handed to the disk, and how much of it was written. */
  #start = 0
  #end = 0
  #written = 0
  #pending: Promise<void> | undefined

  /**
   * @param willSync whether syncs are to be expected
   * @param inline whether this thread may wait for the disk
   */
  constructor(fd: number, willSync: boolean, inline: boolean, calls: () => Libc | undefined = libc) {
    this.#fd = fd
    this.#libc = calls
    this.#inline = inline
    this.#writesBack = willSync
  }

  /** A write is about to start. */
  next(offset: number, bytes: number): void {
    if (bytes >= reservedBytes) {
      this.#reserve(offset, bytes)
    }
    if (!this.#writesBack) {
      return
    }
    const end = offset + bytes
    if (offset > this.#end + slackBytes || end + slackBytes < this.#start) {
      this.#start = offset
      this.#end = end
      this.#written = bytes
      return
    }
    const run = this.#end - this.#start
    if (run >= pieceBytes && this.#pending === undefined) {
      if (this.#written >= run / 2) {
        this.#writeBack(this.#start, run)
      }
      this.#start = this.#end
      this.#written = 0
    }
    this.#written += bytes
    if (end > this.#end) {
      this.#end = end
    }
  }

  /** Waits until nothing uses the descriptor any more. */
  settled(): Wait {
    return this.#pending
  }

  #reserve(offset: number, bytes: number): void {
    this.#reserves ??= isExt4(this.#fd)
    const c = this.#reserves ? this.#libc() : undefined
    if (c !== undefined && c.fallocate(this.#fd, Fallocate.keepSize, offset, bytes) === -Errno.EOPNOTSUPP) {
      this.#reserves = false
    }
  }

  #writeBack(offset: number, bytes: number): void {
    const c = this.#libc()
    if (c === undefined) {
      this.#writesBack = false
    } else if (this.#inline) {
      this.#writesBack = c.syncFileRange(this.#fd, offset, bytes, SYNC_FILE_RANGE_WRITE) >= 0
    } else {
      this.#pending = this.#writeBackLater(c, offset, bytes)
    }
  }

  async #writeBackLater(c: Libc, offset: number, bytes: number): Promise<void> {
    this.#writesBack = (await c.syncFileRangeAsync(this.#fd, offset, bytes, SYNC_FILE_RANGE_WRITE)) >= 0
    this.#pending = undefined
  }
}

function isExt4(fd: number): boolean {
  try {
    return fs.statfsSync(`/proc/self/fd/${fd}`).type === ext4
  } catch {
    return false
  }
}
