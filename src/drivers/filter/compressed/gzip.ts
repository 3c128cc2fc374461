import { readU16LE, readU32LE } from '../../../bytes/index.js'
import { ioError } from '../../../errors/index.js'
import type { ByteStream, HostCodecs } from '../../../host/index.js'
import type { IoNode } from '../../../io/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { type Contents, PointList } from './start-points.js'
import { FileWindow } from './window.js'

const pieceBytes = 1 << 18

async function* pieces(file: IoNode, from: number): ByteStream {
  for (let at = from; at < file.length; at += pieceBytes) {
    const piece = new Uint8Array(Math.min(pieceBytes, file.length - at))
    await file.read(at, piece.length, piece, 0, 0)
    yield piece
  }
}

/** Length of the member of a blocked file (bgzf) that `head` starts, bytes; undefined if it is none. */
function blockedLength(head: Uint8Array): number | undefined {
  const isBlocked =
    head.length >= 18 && head[3] === 4 && readU16LE(head, 10) === 6 && head[12] === 0x42 && head[13] === 0x43
  return isBlocked ? readU16LE(head, 16) + 1 : undefined
}

/** gzip: members of a blocked file are start points; any other can only be read from its start. */
export async function gzipContents(
  file: IoNode,
  codecs: HostCodecs,
  head: Uint8Array,
  size: number | undefined,
): Promise<Contents | undefined> {
  if (head[0] !== 0x1f || head[1] !== 0x8b || head[2] !== 8) {
    return undefined
  }
  const gunzip = codecs.gunzip?.bind(codecs)
  if (gunzip === undefined) {
    throw ioError('ENOTSUP', { operation: 'load gunzip' })
  }
  const from = (offset: number): AsyncGenerator<Uint8Array, void, void> => gunzip(pieces(file, offset))
  const blocked = await blockedContents(file, from)
  if (blocked !== undefined) {
    return blocked
  }
  let length = 0
  if (size === undefined) {
    const slice = new TimeSlice()
    for await (const piece of from(0)) {
      length += piece.length
      await slice.breathe()
    }
  }
  return { length: size ?? length, points: [{ offset: 0, decode: () => from(0) }] }
}

async function blockedContents(
  file: IoNode,
  from: (offset: number) => AsyncGenerator<Uint8Array, void, void>,
): Promise<Contents | undefined> {
  const window = new FileWindow(file, 0)
  const list = new PointList()
  let length = 0
  while (window.left > 0) {
    const bytes = blockedLength(await window.peek(18))
    if (bytes === undefined || bytes < 26 || bytes > window.left) {
      // The file node may be longer than the file by less than a sector.
      return length > 0 && (await window.peek(512)).every((byte) => byte === 0) && window.left < 512
        ? { length, points: list.points }
        : undefined
    }
    const start = window.position
    list.add({ offset: length, decode: () => from(start) })
    length += readU32LE(await window.need(bytes), bytes - 4)
    window.position += bytes
  }
  return { length, points: list.points }
}
