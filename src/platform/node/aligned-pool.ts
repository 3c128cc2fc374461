import { alignedBuffer } from './memory.js'

/** Alignment of every buffer: a page, which is enough for O_DIRECT on any device. Bytes. */
const alignment = 4096
/** Smallest and largest size kept, bytes; sizes between are powers of two. */
const smallest = 4096
const largest = 4 << 20
/** Memory kept for later at most, bytes. */
const keptBytes = 16 << 20

/** Free buffers, by the binary logarithm of their size. */
const free: Uint8Array[][] = []
let kept = 0

function sizeClass(bytes: number): number {
  return 32 - Math.clz32(Math.max(bytes, smallest) - 1)
}

/**
 * A buffer of at least `bytes` bytes whose address is a multiple of 4096, with any contents; to be given back
 * with {@link giveAligned} once nothing uses it any more. Fresh memory costs page faults, kept one does not.
 */
export function takeAligned(bytes: number): Uint8Array {
  if (bytes > largest) {
    return alignedBuffer(alignment, bytes)
  }
  const index = sizeClass(bytes)
  const buffer = free[index]?.pop()
  if (buffer === undefined) {
    return alignedBuffer(alignment, 2 ** index)
  }
  kept -= buffer.length
  return buffer
}

/** Takes back a buffer of {@link takeAligned}. */
export function giveAligned(buffer: Uint8Array): void {
  const { length } = buffer
  if (length > largest || kept + length > keptBytes) {
    return
  }
  kept += length
  const index = sizeClass(length)
  free[index] ??= []
  free[index].push(buffer)
}
