import { Readable } from 'node:stream'
import zlib from 'node:zlib'
import { ioError, isBlockError } from '../../errors/index.js'
import type { ZlibDecoder } from '../../host/index.js'

/** Bytes of output at a time when streaming. */
const pieceBytes = 1 << 18

/** zlib streams of a known length, decoded by Node's thread pool. */
export const zlibDecoder: ZlibDecoder = {
  decompressAsync: (input, output) =>
    new Promise((resolve, reject) => {
      const options = { chunkSize: Math.max(64, output.length), maxOutputLength: Math.max(1, output.length) }
      zlib.inflate(input, options, (error, result) => {
        if (error !== null || result.length !== output.length) {
          reject(ioError('EIO'))
          return
        }
        output.set(result)
        resolve()
      })
    }),

  decompressStream: async (input, output) => {
    const source = Readable.from(input, { objectMode: false, highWaterMark: 1 })
    const inflate = zlib.createInflate({ chunkSize: pieceBytes })
    source.on('error', (error) => inflate.destroy(error))
    let filled = 0
    try {
      for await (const piece of source.pipe(inflate) as AsyncIterable<Uint8Array>) {
        if (filled + piece.length > output.length) {
          throw ioError('EIO')
        }
        output.set(piece, filled)
        filled += piece.length
      }
    } catch (error) {
      // What zlib says is that the stream is corrupt; what the input says is its own.
      throw isBlockError(error) ? error : ioError('EIO')
    } finally {
      source.destroy()
      inflate.destroy()
    }
    if (filled !== output.length) {
      throw ioError('EIO')
    }
  },
}
