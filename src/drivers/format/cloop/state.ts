import { ioError } from '../../../errors/index.js'
import { DecodedChunks } from '../../../formatkit/index.js'
import type { DriverState, FormatDetails } from '../../../graph/index.js'
import type { ByteStream, ZlibDecoder } from '../../../host/index.js'
import type { BlockLimits, ExtentSink, IoNode, MapPath } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { OffsetTable } from './offsets.js'

const sectorBytes = 512
/** A block that is larger than this, compressed or not, is decoded piece by piece. Bytes. */
const wholeInputBytes = 4 << 20
const pieceBytes = 1 << 18

/** An open image. */
export class CloopState implements DriverState, MapPath {
  readonly map: MapPath = this
  readonly length: number
  readonly #file: IoNode
  readonly #zlib: ZlibDecoder
  readonly #table: OffsetTable
  readonly #blockBytes: number
  readonly #chunks: DecodedChunks

  constructor(file: IoNode, zlib: ZlibDecoder, table: OffsetTable, blockBytes: number) {
    this.#file = file
    this.#zlib = zlib
    this.#table = table
    this.#blockBytes = blockBytes
    this.length = table.blocks * blockBytes
    this.#chunks = new DecodedChunks({
      size: () => blockBytes,
      // The compressed block, which is hardly larger, and zlib's own output.
      cost: () => Math.min(blockBytes, wholeInputBytes) * 2,
      decode: (block, output) => this.#decode(block, output),
    })
  }

  details(): FormatDetails {
    return { type: 'cloop', data: { 'block-size': this.#blockBytes, blocks: this.#table.blocks } }
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = sectorBytes
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    for (let at = offset; at < offset + bytes; ) {
      const block = Math.floor(at / this.#blockBytes)
      const chunk = Math.min((block + 1) * this.#blockBytes, offset + bytes) - at
      if (!out.encoded(chunk, block)) {
        break
      }
      at += chunk
    }
    return undefined
  }

  readEncoded(block: number, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#chunks.read(block, offset - block * this.#blockBytes, bytes, buffer, bufferOffset)
  }

  async #decode(block: number, output: Uint8Array): Promise<void> {
    const { offset, bytes } = await this.#table.place(block)
    // Nothing that is past the end of the file can be a part of the stream.
    const present = Math.min(bytes, this.#file.length - offset)
    if (!(present > 0)) {
      throw ioError('EIO', { node: this.#file.nodeName, operation: 'read', offset })
    }
    if (present > wholeInputBytes || output.length > wholeInputBytes) {
      await this.#zlib.decompressStream(this.#pieces(offset, present), output)
      return
    }
    const input = new Uint8Array(present)
    await this.#file.read(offset, present, input, 0, 0)
    await this.#zlib.decompressAsync(input, output)
  }

  async *#pieces(offset: number, bytes: number): ByteStream {
    for (let done = 0; done < bytes; done += pieceBytes) {
      const piece = new Uint8Array(Math.min(pieceBytes, bytes - done))
      await this.#file.read(offset + done, piece.length, piece, 0, 0)
      yield piece
    }
  }

  close(): Wait {
    return undefined
  }
}
