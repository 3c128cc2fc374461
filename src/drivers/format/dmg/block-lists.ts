import { readU32BE } from '../../../bytes/index.js'
import { ioError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'
import type { ChunkTableBuilder } from './chunk-table.js'
import type { DmgTrailer } from './trailer.js'

const maxPlistBytes = 16 << 20
/** A resource with more than a million chunks is no block list. */
const maxResourceBytes = 64 << 20

async function read(file: IoNode, offset: number, bytes: number): Promise<Uint8Array> {
  const data = new Uint8Array(bytes)
  await file.read(offset, bytes, data, 0, 0)
  return data
}

/**
 * Hands the block lists of an image to `table`: those of the resource fork, or else of the property list.
 *
 * @throws BlockError EINVAL if there are neither, or they are not what they should be
 */
export async function readBlockLists(
  file: IoNode,
  trailer: DmgTrailer,
  table: ChunkTableBuilder,
): Promise<void> {
  const { resourceForkOffset, resourceForkLength, plistOffset, plistLength } = trailer
  if (resourceForkLength !== 0) {
    await readResourceFork(file, resourceForkOffset, resourceForkLength, table)
  } else if (plistLength !== 0 && plistLength <= maxPlistBytes) {
    for (const data of plistData(await read(file, plistOffset, plistLength))) {
      table.add(data)
    }
  } else {
    throw ioError('EINVAL')
  }
}

/** A resource fork is a header, the resources, each behind its length, and a map that is not needed. */
async function readResourceFork(
  file: IoNode,
  start: number,
  length: number,
  table: ChunkTableBuilder,
): Promise<void> {
  const header = await read(file, start, 12)
  const dataOffset = readU32BE(header, 0)
  const dataLength = readU32BE(header, 8)
  if (dataLength === 0 || dataOffset + dataLength > length) {
    throw ioError('EINVAL')
  }
  const end = start + dataOffset + dataLength
  for (let at = start + dataOffset; at < end; ) {
    const bytes = readU32BE(await read(file, at, 4), 0)
    if (bytes === 0 || bytes > Math.min(end - at, maxResourceBytes)) {
      throw ioError('EINVAL')
    }
    table.add(await read(file, at + 4, bytes))
    at += 4 + bytes
  }
}

/**
 * The decoded contents of the `<data>` elements of a property list, whatever they belong to. The list ends
 * where a NUL stands.
 *
 * @throws BlockError EINVAL for an element without end
 */
export function* plistData(plist: Uint8Array): Generator<Uint8Array> {
  const end = plist.indexOf(0)
  const text = new TextDecoder('latin1').decode(end < 0 ? plist : plist.subarray(0, end))
  for (let at = 0; ; ) {
    const begin = text.indexOf('<data>', at)
    if (begin < 0) {
      return
    }
    const close = text.indexOf('</data>', begin)
    if (close < 0) {
      throw ioError('EINVAL')
    }
    yield decodeBase64(text, begin + '<data>'.length, close)
    at = close + 1
  }
}

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
const ranks = new Int8Array(256).fill(-1)
for (const [rank, letter] of [...alphabet].entries()) {
  ranks[letter.charCodeAt(0)] = rank
}
const padding = '='.charCodeAt(0)
ranks[padding] = 0

/** As lenient as the decoder QEMU uses: what is no letter is passed over, an incomplete group is dropped. */
function decodeBase64(text: string, from: number, to: number): Uint8Array {
  const out = new Uint8Array(Math.floor(((to - from) / 4) * 3) + 3)
  let length = 0
  let value = 0
  let letters = 0
  let last = 0
  for (let i = from; i < to; i++) {
    const letter = text.charCodeAt(i)
    const rank = ranks[letter] ?? -1
    if (rank < 0) {
      continue
    }
    value = ((value << 6) | rank) & 0xff_ffff
    letters++
    if (letters === 4) {
      letters = 0
      out[length++] = value >> 16
      if (last !== padding) {
        out[length++] = value >> 8
      }
      if (letter !== padding) {
        out[length++] = value
      }
    }
    last = letter
  }
  return out.subarray(0, length)
}
