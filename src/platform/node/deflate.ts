import zlib from 'node:zlib'
import { ioError } from '../../errors/index.js'
import type { Codec } from '../../host/index.js'
import { fastInflate } from './native-codecs.js'

/**
 * What a single byte of deflate input can add to the output, bytes: eight matches of the greatest
 * length, and what the decoder had not given out yet.
 */
const burstBytes = 4096

/** Raw deflate as qcow2 stores it: a 4 KiB window when writing, any when reading. */
export const deflateCodec: Codec = {
  compress: (input, limit) =>
    new Promise((resolve, reject) => {
      // One chunk takes all that may come, so that an output beyond the limit is given up early.
      const chunkSize = Math.max(64, limit)
      zlib.deflateRaw(
        input,
        { windowBits: 12, memLevel: 9, chunkSize, maxOutputLength: chunkSize },
        (error, output) => {
          if (error === null) {
            resolve(output.length <= limit ? output : undefined)
          } else if (isTooLong(error)) {
            resolve(undefined)
          } else {
            reject(ioError('EIO'))
          }
        },
      )
    }),

  decompress: (input, output) => {
    if (fastInflate()?.inflate(input, output) === true) {
      return
    }
    let result: Uint8Array
    try {
      result = zlib.inflateRawSync(input, inflateOptions(output.length))
    } catch (error) {
      result = afterFailure(error, input, output.length)
    }
    take(result, output)
  },

  decompressAsync: (input, output) => {
    const fast = fastInflate()
    return fast === undefined
      ? inflateLater(input, output)
      : fast.inflateLater(input, output).then((done) => (done ? undefined : inflateLater(input, output)))
  },
}

function inflateLater(input: Uint8Array, output: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    zlib.inflateRaw(input, inflateOptions(output.length), (error, result) => {
      try {
        take(error === null ? result : afterFailure(error, input, output.length), output)
        resolve()
      } catch (failure) {
        reject(failure)
      }
    })
  })
}

function inflateOptions(length: number): zlib.ZlibOptions {
  return {
    // Padding follows the stream, and a stream cut off is noticed by its length.
    finishFlush: zlib.constants.Z_SYNC_FLUSH,
    chunkSize: Math.max(64, length),
    maxOutputLength: Math.max(1, length),
  }
}

function isTooLong(error: unknown): boolean {
  return (error as { code?: unknown }).code === 'ERR_BUFFER_TOO_LARGE'
}

function afterFailure(error: unknown, input: Uint8Array, length: number): Uint8Array {
  if (!isTooLong(error)) {
    throw ioError('EIO')
  }
  return inflatePrefix(input, length)
}

/**
 * The first `length` bytes, and perhaps some more, of a stream that holds more than that: as in QEMU
 * the output has to be filled, and what the stream goes on with does not matter. zlib gives nothing
 * when it exceeds a limit, so the shortest prefix of the input that gives enough is searched for;
 * this bounds memory whatever the stream expands to.
 */
function inflatePrefix(input: Uint8Array, length: number): Uint8Array {
  const options = inflateOptions(length + burstBytes)
  for (let low = 0, high = input.length; low < high; ) {
    const middle = (low + high) >>> 1
    try {
      const result = zlib.inflateRawSync(input.subarray(0, middle), options)
      if (result.length >= length) {
        return result
      }
      low = middle + 1
    } catch (error) {
      if (!isTooLong(error)) {
        throw ioError('EIO')
      }
      high = middle
    }
  }
  throw ioError('EIO')
}

function take(result: Uint8Array, output: Uint8Array): void {
  if (result.length < output.length) {
    throw ioError('EIO')
  }
  output.set(result.subarray(0, output.length))
}
