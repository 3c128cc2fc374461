import fs from 'node:fs'
import { ioError } from '../../errors/index.js'
import { fromNode, isInterrupted } from './errors.js'
import type { Libc } from './libc.js'
import { addressOf } from './memory.js'

// Whole transfers on a descriptor: short ones are continued, interrupted ones repeated, and what lies
// past the end of the file reads as zeroes. Node's callback functions are used because a FileHandle
// costs three times as much per request.

/** Node takes lengths as 32-bit integers. Bytes. */
const callBytes = 1 << 30
const RWF_NOWAIT = 8

/** One iovec of a 64-bit system, filled in for each request: address and length as 32-bit halves. */
const iovec = new Uint8Array(16)
const iovecWords = new Uint32Array(iovec.buffer)
/** Its address; 0: not asked for yet. */
let iovecAddress = 0

/**
 * Reads what the page cache can give without waiting. Returns the bytes read, possibly fewer than
 * asked (not cached, or the file ends), or a negative errno. The caller has checked that the range
 * lies within `buffer`.
 */
export function readCached(
  c: Libc,
  fd: number,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
): number {
  const address = addressOf(c, buffer) + bufferOffset
  iovecWords[0] = address >>> 0
  iovecWords[1] = address / 0x1_0000_0000
  iovecWords[2] = bytes
  if (iovecAddress === 0) {
    iovecAddress = addressOf(c, iovec)
  }
  return c.preadv2(fd, iovecAddress, 1, offset, RWF_NOWAIT)
}

/**
 * Reads on this thread.
 *
 * @param granule request alignment of the file in bytes: after a short read that is no multiple of
 *   it the file has ended, and asking on at such an offset would be refused
 */
export function readSync(
  fd: number,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
  granule: number,
): void {
  for (let done = 0; done < bytes; ) {
    let got: number
    try {
      const length = Math.min(bytes - done, callBytes)
      got = fs.readSync(fd, buffer, bufferOffset + done, length, offset + done)
    } catch (error) {
      if (isInterrupted(error)) {
        continue
      }
      throw fromNode(error)
    }
    done += got
    if (got === 0 || got % granule !== 0) {
      buffer.fill(0, bufferOffset + done, bufferOffset + bytes)
      return
    }
  }
}

/** As {@link readSync}, on libuv's pool. */
export function readPool(
  fd: number,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
  granule: number,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const next = (done: number): void => {
      const length = Math.min(bytes - done, callBytes)
      fs.read(fd, buffer, bufferOffset + done, length, offset + done, (error, got) => {
        if (error !== null) {
          if (isInterrupted(error)) {
            next(done)
          } else {
            reject(fromNode(error))
          }
          return
        }
        const end = done + got
        if (end === bytes) {
          resolve()
        } else if (got === 0 || got % granule !== 0) {
          buffer.fill(0, bufferOffset + end, bufferOffset + bytes)
          resolve()
        } else {
          next(end)
        }
      })
    }
    next(0)
  })
}

/** Writes on this thread. */
export function writeSync(
  fd: number,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
): void {
  for (let done = 0; done < bytes; ) {
    let put: number
    try {
      const length = Math.min(bytes - done, callBytes)
      put = fs.writeSync(fd, buffer, bufferOffset + done, length, offset + done)
    } catch (error) {
      if (isInterrupted(error)) {
        continue
      }
      throw fromNode(error)
    }
    if (put === 0) {
      throw ioError('ENOSPC')
    }
    done += put
  }
}

/** As {@link writeSync}, on libuv's pool. */
export function writePool(
  fd: number,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const next = (done: number): void => {
      const length = Math.min(bytes - done, callBytes)
      fs.write(fd, buffer, bufferOffset + done, length, offset + done, (error, put) => {
        if (error !== null) {
          if (isInterrupted(error)) {
            next(done)
          } else {
            reject(fromNode(error))
          }
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
