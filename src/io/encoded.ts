import { TimeSlice, type Wait } from '../sched/index.js'
import type { MapPath } from './data-path.js'
import type { IoNode } from './node.js'

/**
 * Data that a driver stores in another form of the same length, such as enciphered. Reads decode in the
 * caller's buffer, which is to be filled anyway; writes encode a copy, at most this many bytes at a time.
 */
const pieceBytes = 1 << 20

/** Reads `bytes` bytes at `hostOffset` of `node` and decodes them: the guest bytes at `offset`. */
export function readDecoded(
  map: MapPath,
  offset: number,
  bytes: number,
  node: IoNode,
  hostOffset: number,
  buffer: Uint8Array,
  bufferOffset: number,
): Wait {
  const wait = node.read(hostOffset, bytes, buffer, bufferOffset, 0)
  if (wait === undefined && bytes <= pieceBytes) {
    map.decode?.(offset, hostOffset, bytes, buffer, bufferOffset)
    return undefined
  }
  return decodeLater(wait, map, offset, bytes, hostOffset, buffer, bufferOffset)
}

async function decodeLater(
  wait: Wait,
  map: MapPath,
  offset: number,
  bytes: number,
  hostOffset: number,
  buffer: Uint8Array,
  bufferOffset: number,
): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
  const slice = new TimeSlice()
  for (let done = 0; done < bytes; done += pieceBytes) {
    const piece = Math.min(pieceBytes, bytes - done)
    map.decode?.(offset + done, hostOffset + done, piece, buffer, bufferOffset + done)
    const breath = slice.breathe()
    if (breath !== undefined) {
      await breath
    }
  }
}

/** Encodes the guest bytes at `offset` and writes them to `hostOffset` of `node`. The buffer stays as it is. */
export function writeEncoded(
  map: MapPath,
  offset: number,
  bytes: number,
  node: IoNode,
  hostOffset: number,
  buffer: Uint8Array,
  bufferOffset: number,
  flags: number,
): Wait {
  if (bytes > pieceBytes) {
    return writePieces(map, offset, bytes, node, hostOffset, buffer, bufferOffset, flags)
  }
  // Not `slice`: of a Node Buffer that is a view.
  const encoded = new Uint8Array(bytes)
  encoded.set(buffer.subarray(bufferOffset, bufferOffset + bytes))
  map.encode?.(offset, hostOffset, bytes, encoded, 0)
  return node.write(hostOffset, bytes, encoded, 0, flags)
}

async function writePieces(
  map: MapPath,
  offset: number,
  bytes: number,
  node: IoNode,
  hostOffset: number,
  buffer: Uint8Array,
  bufferOffset: number,
  flags: number,
): Promise<void> {
  const slice = new TimeSlice()
  const encoded = new Uint8Array(pieceBytes)
  for (let done = 0; done < bytes; done += pieceBytes) {
    const piece = Math.min(pieceBytes, bytes - done)
    encoded.set(buffer.subarray(bufferOffset + done, bufferOffset + done + piece))
    map.encode?.(offset + done, hostOffset + done, piece, encoded, 0)
    const written = node.write(hostOffset + done, piece, encoded, 0, flags)
    if (written !== undefined) {
      await written
    }
    const breath = slice.breathe()
    if (breath !== undefined) {
      await breath
    }
  }
}
