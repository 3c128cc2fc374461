import fs from 'node:fs'
import { fromNode } from './errors.js'
import { readPool, writePool } from './transfer.js'

/** Values of QEMU's option `aio`. */
export const aioModes = ['threads', 'native', 'io_uring'] as const
export type AioMode = (typeof aioModes)[number]

/**
 * How requests that may have to wait reach the kernel. Offsets and lengths are bytes, ranges lie within
 * their buffers, and transfers are whole: short ones are continued, interrupted ones repeated. A buffer
 * must not be touched until its promise settles. Failures are BlockErrors.
 */
export interface AioBackend {
  /**
   * Fills the range; what lies past the end of the file becomes zeroes.
   *
   * @param granule request alignment of the file in bytes, see `readSync` in transfer.ts
   */
  read(
    fd: number,
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    granule: number,
  ): Promise<void>
  write(fd: number, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void>
  /** fdatasync(2) */
  sync(fd: number): Promise<void>
  /** fallocate(2): its result or negated errno; undefined: to be called as any other function is. */
  fallocate(fd: number, mode: number, offset: number, bytes: number): Promise<number> | undefined
}

/** libuv's thread pool. */
export const poolAio: AioBackend = {
  read: readPool,
  write: writePool,
  sync: (fd) =>
    new Promise((resolve, reject) => {
      fs.fdatasync(fd, (error) => {
        if (error === null) {
          resolve()
        } else {
          reject(fromNode(error))
        }
      })
    }),
  fallocate: () => undefined,
}
