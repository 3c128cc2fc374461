import { type Libc, libc } from './libc.js'

const bases = new WeakMap<ArrayBufferLike, number>()

/**
 * Address of a buffer's first byte. Asked for once per ArrayBuffer, whose memory never moves.
 * User-space addresses are below 2^53.
 */
export function addressOf(c: Libc, buffer: Uint8Array): number {
  const memory = buffer.buffer
  let base = bases.get(memory)
  if (base === undefined) {
    base = c.address(new Uint8Array(memory))
    bases.set(memory, base)
  }
  return base + buffer.byteOffset
}

/** `bytes` bytes of uninitialised memory whose address is a multiple of `align`, if addresses can be known. */
export function alignedBuffer(align: number, bytes: number): Uint8Array {
  const memory = Buffer.allocUnsafeSlow(bytes + align)
  const c = libc()
  const excess = c === undefined ? 0 : addressOf(c, memory) % align
  const skip = excess === 0 ? 0 : align - excess
  return memory.subarray(skip, skip + bytes)
}

/** Whether `buffer[offset]` is at a multiple of `align`. */
export function isAligned(buffer: Uint8Array, offset: number, align: number): boolean {
  if (align === 1) {
    return true
  }
  const c = libc()
  return c !== undefined && (addressOf(c, buffer) + offset) % align === 0
}
