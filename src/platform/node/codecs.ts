import zlib from 'node:zlib'
import { ioError } from '../../errors/index.js'
import type { Codec, HostCodecs } from '../../host/index.js'
import { zstdFramesLength } from './zstd-frame.js'

/** Raw deflate as qcow2 stores it: a 4 KiB window when writing, any when reading. */
const deflateCodec: Codec = {
  compress: (input, limit) =>
    new Promise((resolve, reject) => {
      zlib.deflateRaw(input, { windowBits: 12, memLevel: 9 }, (error, output) => {
        if (error !== null) {
          reject(ioError('EIO'))
        } else {
          resolve(output.length <= limit ? output : undefined)
        }
      })
    }),
  decompress: (input, output) => {
    let result: Uint8Array
    try {
      result = zlib.inflateRawSync(input, inflateOptions(output.length))
    } catch {
      throw ioError('EIO')
    }
    take(result, output)
  },
  decompressAsync: (input, output) =>
    new Promise((resolve, reject) => {
      zlib.inflateRaw(input, inflateOptions(output.length), (error, result) => {
        try {
          if (error !== null) {
            throw ioError('EIO')
          }
          take(result, output)
          resolve()
        } catch (failure) {
          reject(failure)
        }
      })
    }),
}

function inflateOptions(length: number): zlib.ZlibOptions {
  return {
    // Padding follows the stream, and a cut-off one is noticed by its length.
    finishFlush: zlib.constants.Z_SYNC_FLUSH,
    chunkSize: Math.max(64, length),
    maxOutputLength: length,
  }
}

function take(result: Uint8Array, output: Uint8Array): void {
  if (result.length < output.length) {
    throw ioError('EIO')
  }
  output.set(result.subarray(0, output.length))
}

interface ZstdFunctions {
  compress(input: Uint8Array): Uint8Array
  decompress(input: Uint8Array, size: number): Uint8Array
}

async function loadZstd(): Promise<ZstdFunctions> {
  const native = zlib as unknown as {
    zstdCompressSync?: (input: Uint8Array) => Uint8Array
    zstdDecompressSync?: (input: Uint8Array, options: object) => Uint8Array
  }
  if (native.zstdCompressSync !== undefined && native.zstdDecompressSync !== undefined) {
    const { zstdCompressSync, zstdDecompressSync } = native
    return {
      compress: (input) => zstdCompressSync(input),
      decompress: (input, size) => zstdDecompressSync(input, { maxOutputLength: size }),
    }
  }
  const wasm = await import('@bokuweb/zstd-wasm')
  await wasm.init()
  return {
    compress: (input) => wasm.compress(input, 3),
    decompress: (input, size) => wasm.decompress(input, { defaultHeapSize: size }),
  }
}

function zstdCodec(functions: ZstdFunctions): Codec {
  const decompress = (input: Uint8Array, output: Uint8Array): void => {
    const frames = zstdFramesLength(input)
    if (frames.bytes === 0 || (frames.contentSize !== undefined && frames.contentSize > output.length)) {
      throw ioError('EIO')
    }
    let result: Uint8Array
    try {
      result = functions.decompress(input.subarray(0, frames.bytes), output.length)
    } catch {
      throw ioError('EIO')
    }
    take(result, output)
  }
  return {
    compress: (input, limit) => {
      const output = functions.compress(input)
      return output.length <= limit ? output : undefined
    },
    decompress,
    decompressAsync: async (input, output) => {
      decompress(input, output)
    },
  }
}

export class NodeCodecs implements HostCodecs {
  #zstd: Codec | Promise<Codec> | undefined

  deflate(): Codec {
    return deflateCodec
  }

  zstd(): Codec | Promise<Codec> {
    this.#zstd ??= loadZstd().then((functions) => {
      const codec = zstdCodec(functions)
      this.#zstd = codec
      return codec
    })
    return this.#zstd
  }
}
