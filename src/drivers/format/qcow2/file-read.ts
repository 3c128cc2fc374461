import { ioError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'

/** Requests that end beyond this offset fail with EIO in QEMU. Bytes; exact as a double. */
export const maxFileOffset = 2 ** 63 - 2 ** 30

/**
 * Fills `into` from the image file. What lies past the end of the file reads as zeroes, however far
 * off an image says it is.
 */
export function readPadded(file: IoNode, offset: number, into: Uint8Array): Wait {
  if (offset + into.length > maxFileOffset) {
    throw ioError('EIO', { node: file.nodeName, operation: 'read' })
  }
  const inside = Math.max(0, Math.min(into.length, file.length - offset))
  into.fill(0, inside)
  return inside === 0 ? undefined : file.read(offset, inside, into, 0, 0)
}

/**
 * The part of `[offset, +bytes)` that lies inside the file: memory follows the file's size, not what
 * the image claims.
 *
 * @param buffer memory of at least `bytes` bytes to use; the result lies in it
 */
export async function readInside(
  file: IoNode,
  offset: number,
  bytes: number,
  buffer?: Uint8Array,
): Promise<Uint8Array> {
  if (offset + bytes > maxFileOffset) {
    throw ioError('EIO', { node: file.nodeName, operation: 'read' })
  }
  const inside = Math.max(0, Math.min(bytes, file.length - offset))
  const data = buffer === undefined ? new Uint8Array(inside) : buffer.subarray(0, inside)
  const wait = readPadded(file, offset, data)
  if (wait !== undefined) {
    await wait
  }
  return data
}
