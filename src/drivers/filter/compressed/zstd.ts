import { blockError, ioError } from '../../../errors/index.js'
import type { Codec, HostCodecs } from '../../../host/index.js'
import type { IoNode } from '../../../io/index.js'
import { type Contents, PointList } from './start-points.js'
import { FileWindow } from './window.js'

/** The decoder at hand decodes frames as a whole. Bytes, stored or not. */
const maxFrameBytes = 32 << 20
const frameMagic = 0xfd2fb528
const skippableMagic = 0x184d2a50

interface Frame {
  readonly bytes: number
  readonly contentBytes: number
}

function u32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(at, true)
}

/** The frame at the window's position, found by its block headers; undefined if no frame starts there. */
async function frameAt(window: FileWindow): Promise<Frame | undefined> {
  const start = window.position
  const head = await window.peek(18)
  if (head.length < 8) {
    return undefined
  }
  const magic = u32(head, 0)
  if ((magic & ~15) >>> 0 === skippableMagic) {
    return { bytes: 8 + u32(head, 4), contentBytes: 0 }
  }
  if (magic !== frameMagic) {
    return undefined
  }
  const descriptor = head[4] as number
  const single = (descriptor & 0x20) !== 0
  const sizeFlag = descriptor >> 6
  const sizeBytes = sizeFlag === 0 ? (single ? 1 : 0) : 1 << sizeFlag
  const sizeAt = 5 + (single ? 0 : 1) + ([0, 1, 2, 4][descriptor & 3] as number)
  if (sizeBytes === 0) {
    throw blockError('ENOTSUP', 'A zstd frame does not tell how much it holds')
  }
  let contentBytes = 0
  for (let i = sizeBytes - 1; i >= 0; i--) {
    contentBytes = contentBytes * 256 + (head[sizeAt + i] ?? 0)
  }
  contentBytes += sizeBytes === 2 ? 256 : 0
  if (contentBytes > maxFrameBytes) {
    throw blockError(
      'ENOTSUP',
      `A zstd frame holds ${contentBytes} bytes; more than ${maxFrameBytes} in one frame cannot be read`,
    )
  }
  window.position += sizeAt + sizeBytes
  for (let last = false; !last; ) {
    const block = await window.need(3)
    const header = (block[0] as number) | ((block[1] as number) << 8) | ((block[2] as number) << 16)
    last = (header & 1) !== 0
    window.position += 3 + (((header >> 1) & 3) === 1 ? 1 : header >> 3)
  }
  const bytes = window.position + ((descriptor & 4) !== 0 ? 4 : 0) - start
  window.position = start
  if (bytes > Math.min(maxFrameBytes, window.left)) {
    throw ioError('EIO')
  }
  return { bytes, contentBytes }
}

async function* dataOf(file: IoNode, codec: Codec, from: number): AsyncGenerator<Uint8Array, void, void> {
  const window = new FileWindow(file, from)
  for (;;) {
    const frame = await frameAt(window)
    if (frame === undefined) {
      return
    }
    if (frame.contentBytes > 0) {
      const input = new Uint8Array(frame.bytes)
      await file.read(window.position, input.length, input, 0, 0)
      const output = new Uint8Array(frame.contentBytes)
      await codec.decompressAsync(input, output)
      yield output
    }
    window.position += frame.bytes
  }
}

/** zstd: frames are start points; their headers tell where the next one is and how much they hold. */
export async function zstdContents(
  file: IoNode,
  codecs: HostCodecs,
  head: Uint8Array,
): Promise<Contents | undefined> {
  const magic = u32(head, 0)
  if (magic !== frameMagic && (magic & ~15) >>> 0 !== skippableMagic) {
    return undefined
  }
  const codec = await codecs.zstd()
  const window = new FileWindow(file, 0)
  const list = new PointList()
  let length = 0
  for (let frame = await frameAt(window); frame !== undefined; frame = await frameAt(window)) {
    const start = window.position
    if (frame.contentBytes > 0) {
      list.add({ offset: length, decode: () => dataOf(file, codec, start) })
    }
    length += frame.contentBytes
    window.position += frame.bytes
  }
  return { length, points: list.points }
}
