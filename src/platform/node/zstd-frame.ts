/**
 * Length of the zstd frame at the start of `input` (RFC 8878), found by walking its block headers.
 * Image formats pad frames to sectors, and decoders take the padding for a broken second frame.
 * `bytes` is 0 if no whole frame is there; `contentSize` is what the frame claims, if it does.
 */
export function zstdFramesLength(input: Uint8Array): { bytes: number; contentSize: number | undefined } {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength)
  const none = { bytes: 0, contentSize: undefined }
  if (input.length < 6 || view.getUint32(0, true) !== 0xfd2fb528) {
    return none
  }
  const descriptor = view.getUint8(4)
  const single = (descriptor & 0x20) !== 0
  const sizeFlag = descriptor >> 6
  const sizeBytes = sizeFlag === 0 ? (single ? 1 : 0) : 1 << sizeFlag
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0
  const sizeAt = 5 + (single ? 0 : 1) + dictionaryBytes
  let at = sizeAt + sizeBytes
  if (at > input.length) {
    return none
  }
  let contentSize: number | undefined
  if (sizeBytes === 1) {
    contentSize = view.getUint8(sizeAt)
  } else if (sizeBytes === 2) {
    contentSize = view.getUint16(sizeAt, true) + 256
  } else if (sizeBytes === 4) {
    contentSize = view.getUint32(sizeAt, true)
  } else if (sizeBytes === 8) {
    contentSize = Number(view.getBigUint64(sizeAt, true))
  }
  for (let last = false; !last; ) {
    if (at + 3 > input.length) {
      return none
    }
    const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16)
    last = (header & 1) !== 0
    const type = (header >> 1) & 3
    if (type === 3) {
      return none
    }
    // A run-length block stores one byte whatever its size.
    at += 3 + (type === 1 ? 1 : header >> 3)
  }
  if ((descriptor & 4) !== 0) {
    at += 4
  }
  return at > input.length ? none : { bytes: at, contentSize }
}
