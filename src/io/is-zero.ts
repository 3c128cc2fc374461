/** Whether `bytes` of `buffer` are zero. */
export function isZero(buffer: Uint8Array, offset: number, bytes: number): boolean {
  const end = offset + bytes
  let at = offset
  for (; at < end && ((buffer.byteOffset + at) & 7) !== 0; at++) {
    if (buffer[at] !== 0) {
      return false
    }
  }
  const words = Math.floor((end - at) / 8)
  if (words > 0) {
    const view = new Float64Array(buffer.buffer, buffer.byteOffset + at, words)
    const bits = new Int32Array(buffer.buffer, buffer.byteOffset + at, words * 2)
    // A double compares equal to 0 also for the bit pattern of -0, so look at the bits.
    for (let i = 0; i < words; i++) {
      if (view[i] !== 0 || bits[i * 2] !== 0 || bits[i * 2 + 1] !== 0) {
        return false
      }
    }
    at += words * 8
  }
  for (; at < end; at++) {
    if (buffer[at] !== 0) {
      return false
    }
  }
  return true
}
