export interface ZstdFrame {
  /** Bytes from the magic number to the end of the frame, checksum included. */
  readonly length: number
  /** Bytes the frame claims to hold; undefined if it does not tell. */
  readonly contentSize: number | undefined
}

const frameMagic = 0xfd2fb528
/** Any of sixteen magic numbers that differ in the lowest four bits. */
const skippableMagic = 0x184d2a50
const rleBlock = 1
const reservedBlock = 3

/**
 * The zstd frame at the start of `bytes` (RFC 8878), found by walking its block headers; undefined
 * if no whole frame is there. Image formats pad frames to sectors, and what follows may be padding
 * or other clusters, which decoders take for a broken next frame. A skippable frame holds 0 bytes.
 */
export function zstdFrame(bytes: Uint8Array): ZstdFrame | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (bytes.length < 6) {
    return undefined
  }
  const magic = view.getUint32(0, true)
  if (magic !== frameMagic) {
    if ((magic & ~0xf) >>> 0 !== skippableMagic || bytes.length < 8) {
      return undefined
    }
    const length = 8 + view.getUint32(4, true)
    return length > bytes.length ? undefined : { length, contentSize: 0 }
  }
  const descriptor = view.getUint8(4)
  const singleSegment = (descriptor & 0x20) !== 0
  const sizeFlag = descriptor >> 6
  const sizeBytes = sizeFlag === 0 ? (singleSegment ? 1 : 0) : 1 << sizeFlag
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0
  const sizeAt = 5 + (singleSegment ? 0 : 1) + dictionaryBytes
  let at = sizeAt + sizeBytes
  if (at > bytes.length) {
    return undefined
  }
  const contentSize = contentSizeAt(view, sizeAt, sizeBytes)
  for (let last = false; !last; ) {
    if (at + 3 > bytes.length) {
      return undefined
    }
    const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16)
    last = (header & 1) !== 0
    const type = (header >> 1) & 3
    if (type === reservedBlock) {
      return undefined
    }
    at += 3 + (type === rleBlock ? 1 : header >> 3)
  }
  const hasChecksum = (descriptor & 4) !== 0
  const length = at + (hasChecksum ? 4 : 0)
  return length > bytes.length ? undefined : { length, contentSize }
}

function contentSizeAt(view: DataView, at: number, bytes: number): number | undefined {
  switch (bytes) {
    case 1:
      return view.getUint8(at)
    case 2:
      return view.getUint16(at, true) + 256
    case 4:
      return view.getUint32(at, true)
    case 8:
      return Number(view.getBigUint64(at, true))
    default:
      return undefined
  }
}

/** Length in bytes of the zstd frame at the start of `bytes`; 0 if no whole frame is there. */
export function zstdFrameLength(bytes: Uint8Array): number {
  return zstdFrame(bytes)?.length ?? 0
}
