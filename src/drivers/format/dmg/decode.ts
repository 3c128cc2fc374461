import { ioError } from '../../../errors/index.js'
import { decodeAdc, decodeBzip2, decodeLzfse, decodeXz } from '../../../formatkit/compression/index.js'
import type { ByteStream, HostCodecs } from '../../../host/index.js'
import type { IoNode } from '../../../io/index.js'
import { ChunkType } from './chunk-table.js'

/** A chunk larger than this, stored or not, is decoded piece by piece where that can be. Bytes. */
const wholeBytes = 8 << 20
const pieceBytes = 1 << 18

/**
 * Decodes a chunk that stands at `offset` of the file and takes `bytes` there.
 *
 * @throws BlockError EIO if it is corrupt, holds more or less than `output`, or is of a kind that cannot be decoded
 */
export async function decodeChunk(
  file: IoNode,
  codecs: HostCodecs,
  type: number,
  offset: number,
  bytes: number,
  output: Uint8Array,
): Promise<void> {
  // Nothing that is past the end of the file can be a part of the stream.
  const present = Math.min(bytes, file.length - offset)
  if (!(present > 0)) {
    throw ioError('EIO', { node: file.nodeName, operation: 'read', offset })
  }
  if (type === ChunkType.zlib) {
    const zlib = await codecs.zlib?.()
    if (zlib === undefined) {
      throw ioError('EIO', { operation: 'load zlib' })
    }
    if (present > wholeBytes || output.length > wholeBytes) {
      await zlib.decompressStream(pieces(file, offset, present), output)
    } else {
      await zlib.decompressAsync(await read(file, offset, present), output)
    }
    return
  }
  const input = await read(file, offset, present)
  switch (type) {
    case ChunkType.adc:
      decodeAdc(input, output)
      return
    case ChunkType.bzip2:
      await decodeBzip2(input, output)
      return
    case ChunkType.lzfse:
      decodeLzfse(input, output)
      return
    case ChunkType.lzma:
      await decodeXz(input, output)
      return
    default:
      throw ioError('EIO', { node: file.nodeName, operation: 'read', offset })
  }
}

async function read(file: IoNode, offset: number, bytes: number): Promise<Uint8Array> {
  const data = new Uint8Array(bytes)
  await file.read(offset, bytes, data, 0, 0)
  return data
}

async function* pieces(file: IoNode, offset: number, bytes: number): ByteStream {
  for (let done = 0; done < bytes; done += pieceBytes) {
    yield await read(file, offset + done, Math.min(pieceBytes, bytes - done))
  }
}
