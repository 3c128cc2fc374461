import { Readable, type Transform } from 'node:stream'
import zlib from 'node:zlib'
import { ioError, isBlockError } from '../../errors/index.js'
import type { ByteStream, ZlibDecoder } from '../../host/index.js'

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
    let filled = 0
    for await (const piece of through(input, zlib.createInflate({ chunkSize: pieceBytes }))) {
      if (filled + piece.length > output.length) {
        throw ioError('EIO')
      }
      output.set(piece, filled)
      filled += piece.length
    }
    if (filled !== output.length) {
      throw ioError('EIO')
    }
  },
}

/** Members of a gzip file, decoded piece by piece. */
export function gunzip(input: ByteStream): AsyncGenerator<Uint8Array, void, void> {
  return through(input, zlib.createGunzip({ chunkSize: pieceBytes }))
}

async function* through(input: ByteStream, decoder: Transform): AsyncGenerator<Uint8Array, void, void> {
  const source = Readable.from(input, { objectMode: false, highWaterMark: 1 })
  source.on('error', (error) => decoder.destroy(error))
  try {
    yield* source.pipe(decoder) as AsyncIterable<Uint8Array>
  } catch (error) {
    // What zlib says is that the stream is corrupt; what the input says is its own.
    throw isBlockError(error) ? error : ioError('EIO')
  } finally {
    source.destroy()
    decoder.destroy()
  }
}
