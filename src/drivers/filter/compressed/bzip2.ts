import { ioError } from '../../../errors/index.js'
import { Bzip2Decoder, maxBlockInput } from '../../../formatkit/compression/index.js'
import type { IoNode } from '../../../io/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { type Contents, PointList } from './start-points.js'
import { FileWindow } from './window.js'

/** The most that a block can hold: runs of 255 of every five bytes. */
const maxBlockOutput = 900_000 * 51 + 255

/** Blocks from a bit position on, which is where one starts or a stream ends. */
async function* blocks(
  file: IoNode,
  decoder: Bzip2Decoder,
  from: number,
  size: number,
): AsyncGenerator<{ data: Uint8Array; position: number; blockBytes: number }, void, void> {
  const window = new FileWindow(file, Math.floor(from / 8), maxBlockInput + 64)
  const slice = new TimeSlice()
  let blockBytes = size
  for (let position = from; ; ) {
    window.position = Math.floor(position / 8)
    const base = window.position * 8
    const part = decoder.decode(
      await window.peek(maxBlockInput + 16),
      position - base,
      blockBytes,
      maxBlockOutput,
    )
    if (part.kind === 'block') {
      yield { data: part.data, position, blockBytes }
      position = base + part.next
      await slice.breathe()
      continue
    }
    // Another stream may follow; anything else is no part of the file.
    window.position += part.next / 8
    const next = Bzip2Decoder.blockBytes(await window.peek(4))
    if (next === undefined) {
      return
    }
    blockBytes = next
    position = window.position * 8 + 32
  }
}

async function* dataOf(
  file: IoNode,
  decoder: Bzip2Decoder,
  from: number,
  size: number,
): AsyncGenerator<Uint8Array, void, void> {
  for await (const { data } of blocks(file, decoder, from, size)) {
    yield data
  }
}

/** bzip2: every block is a start point, but only decoding all of them tells where they are. */
export async function bzip2Contents(
  file: IoNode,
  head: Uint8Array,
  size: number | undefined,
): Promise<Contents | undefined> {
  const first = Bzip2Decoder.blockBytes(head)
  if (first === undefined) {
    return undefined
  }
  // One for all: only one place is decoded at a time, and it holds a block of up to 46 MB.
  const decoder = new Bzip2Decoder()
  if (size !== undefined) {
    return { length: size, points: [{ offset: 0, decode: () => dataOf(file, decoder, 32, first) }] }
  }
  const list = new PointList()
  let length = 0
  for await (const { data, position, blockBytes } of blocks(file, decoder, 32, first)) {
    list.add({ offset: length, decode: () => dataOf(file, decoder, position, blockBytes) })
    length += data.length
    if (!Number.isSafeInteger(length)) {
      throw ioError('EFBIG')
    }
  }
  return { length, points: list.points }
}
