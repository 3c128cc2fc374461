import { blockError, ioError } from '../../../errors/index.js'
import {
  checkBytes,
  isXz,
  Lzma2Decoder,
  maxBlockHeader,
  maxChunkInput,
  maxChunkOutput,
  parseBlockHeader,
  parseIndex,
  parseStreamFooter,
  parseStreamHeader,
  streamHeaderBytes,
  XzCheck,
} from '../../../formatkit/compression/index.js'
import type { IoNode } from '../../../io/index.js'
import { TimeSlice } from '../../../sched/index.js'
import type { Contents, StartPoint } from './start-points.js'
import { maxPoints } from './start-points.js'
import { FileWindow } from './window.js'

/** What xz -9 uses. Bytes. */
const maxDictionary = 64 << 20
const maxIndexBytes = 16 << 20
/** Zeroes behind a stream, bytes. */
const maxPadding = 1 << 20

interface Block {
  /** Where it starts in the file, and how much it holds; bytes. */
  readonly start: number
  readonly uncompressed: number
  readonly check: number
}

async function read(file: IoNode, offset: number, bytes: number): Promise<Uint8Array> {
  const data = new Uint8Array(bytes)
  await file.read(offset, bytes, data, 0, 0)
  return data
}

/** Where the last stream ends: before padding of zeroes, in fours, and what fills the last sector. */
async function endOfStreams(file: IoNode, from: number): Promise<number> {
  for (let end = from; end > 0 && from - end <= maxPadding; ) {
    const bytes = Math.min(end, 65536)
    const tail = await read(file, end - bytes, bytes)
    for (let i = bytes; i > 0; i--) {
      if (tail[i - 1] !== 0) {
        return end - bytes + i
      }
    }
    end -= bytes
  }
  throw ioError('EIO')
}

/** Lists the blocks by the indexes at the ends of the streams. */
async function listBlocks(file: IoNode): Promise<Block[]> {
  const streams: Block[][] = []
  let count = 0
  for (let end = file.length; end > 0; ) {
    end = await endOfStreams(file, end)
    const { indexBytes, check } = parseStreamFooter(
      await read(file, Math.max(0, end - 12), Math.min(12, end)),
      0,
    )
    const indexAt = end - streamHeaderBytes - indexBytes
    if (indexBytes > maxIndexBytes || indexAt < streamHeaderBytes) {
      throw ioError('EIO')
    }
    const records = parseIndex(await read(file, indexAt, indexBytes), maxPoints * 16)
    count += records.length
    const bytes = records.reduce((sum, { unpadded }) => sum + Math.ceil(unpadded / 4) * 4, 0)
    let start = indexAt - bytes
    const stream = start - streamHeaderBytes
    if (!(stream >= 0) || count > maxPoints * 16) {
      throw ioError('EIO')
    }
    if (parseStreamHeader(await read(file, stream, streamHeaderBytes), 0) !== check) {
      throw ioError('EIO')
    }
    const blocks: Block[] = []
    for (const { unpadded, uncompressed } of records) {
      blocks.push({ start, uncompressed, check })
      start += Math.ceil(unpadded / 4) * 4
    }
    streams.push(blocks)
    if (streams.length > maxPoints) {
      throw ioError('EIO')
    }
    end = stream
  }
  return streams.reverse().flat()
}

async function* decodeBlock(file: IoNode, block: Block): AsyncGenerator<Uint8Array, void, void> {
  const window = new FileWindow(file, block.start)
  const header = parseBlockHeader(await window.peek(maxBlockHeader), 0)
  const dictionary = Math.min(header.dictionaryBytes, block.uncompressed)
  if (dictionary > maxDictionary) {
    throw blockError('ENOTSUP', `xz needs ${dictionary} bytes of memory; the limit is ${maxDictionary}`)
  }
  window.position += header.bytes
  // The more room there is, the less often the dictionary has to be moved.
  const buffer = new Uint8Array(dictionary + Math.max(2 * maxChunkOutput, dictionary >> 1))
  const decoder = new Lzma2Decoder()
  const check = new XzCheck(block.check)
  const slice = new TimeSlice()
  let filled = 0
  let total = 0
  for (;;) {
    const input = await window.peek(maxChunkInput)
    const chunk = Lzma2Decoder.header(input, 0)
    window.position += chunk.headerBytes + chunk.inputBytes
    if (!chunk.more) {
      break
    }
    if (total + chunk.outputBytes > block.uncompressed) {
      throw ioError('EIO')
    }
    if (filled + chunk.outputBytes > buffer.length) {
      buffer.copyWithin(0, filled - dictionary, filled)
      filled = dictionary
    }
    decoder.decode(input, 0, chunk, buffer, filled, Math.max(0, filled - dictionary))
    const end = filled + chunk.outputBytes
    check.update(buffer, filled, end)
    yield buffer.subarray(filled, end)
    total += chunk.outputBytes
    filled = end
    await slice.breathe()
  }
  window.position += (4 - ((window.position - block.start) % 4)) % 4
  check.verify(await window.need(checkBytes(block.check)), 0)
  if (total !== block.uncompressed) {
    throw ioError('EIO')
  }
}

async function* decodeFrom(
  file: IoNode,
  blocks: readonly Block[],
  first: number,
): AsyncGenerator<Uint8Array, void, void> {
  for (let i = first; i < blocks.length; i++) {
    yield* decodeBlock(file, blocks[i] as Block)
  }
}

/** xz: the index tells all; every block is a start point. */
export async function xzContents(file: IoNode, head: Uint8Array): Promise<Contents | undefined> {
  if (!isXz(head)) {
    return undefined
  }
  const blocks = await listBlocks(file)
  const points: StartPoint[] = []
  let length = 0
  for (const [i, block] of blocks.entries()) {
    points.push({ offset: length, decode: () => decodeFrom(file, blocks, i) })
    length += block.uncompressed
  }
  return { length, points }
}
