import zlib from 'node:zlib'
import { ioError } from '../../errors/index.js'
import type { Codec } from '../../host/index.js'
import type { Maybe } from '../../sched/index.js'
import { type FastZstd, fastZstd } from './native-codecs.js'
import { zstdFrame } from './zstd-frame.js'

/** QEMU compresses at zstd's own default level. */
const level = 3

/** What a zstd library has to offer; its own errors are thrown. */
interface ZstdLibrary {
  /** One frame that states its content size; undefined: it would be longer than `limit`. */
  compress(input: Uint8Array, limit: number): Maybe<Uint8Array | undefined>
  /** Decodes one whole frame that holds at most `limit` bytes. */
  decompress(frame: Uint8Array, limit: number): Uint8Array
  decompressAsync(frame: Uint8Array, limit: number): Maybe<Uint8Array>
}

type Done = (error: Error | null, output: Uint8Array) => void

/** The part of node:zlib that Node has from 22.15 on. */
interface NativeZstd {
  zstdCompress(input: Uint8Array, done: Done): void
  zstdDecompress(input: Uint8Array, options: object, done: Done): void
  zstdDecompressSync(input: Uint8Array, options: object): Uint8Array
}

function promised(run: (done: Done) => void): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    run((error, output) => {
      if (error === null) {
        resolve(output)
      } else {
        reject(error)
      }
    })
  })
}

function nativeLibrary(native: NativeZstd): ZstdLibrary {
  const options = (limit: number): object => ({ chunkSize: Math.max(64, limit), maxOutputLength: limit })
  return {
    compress: async (input, limit) =>
      fitting(await promised((done) => native.zstdCompress(input, done)), limit),
    decompress: (frame, limit) => native.zstdDecompressSync(frame, options(limit)),
    decompressAsync: (frame, limit) => promised((done) => native.zstdDecompress(frame, options(limit), done)),
  }
}

function fitting(output: Uint8Array, limit: number): Uint8Array | undefined {
  return output.length <= limit ? output : undefined
}

function systemLibrary(zstd: FastZstd): ZstdLibrary {
  const content = (result: Uint8Array | undefined): Uint8Array => result ?? corrupt()
  return {
    compress: (input, limit) => zstd.compressLater(input, level, limit),
    decompress: (frame, limit) => content(zstd.decompress(frame, limit)),
    decompressAsync: (frame, limit) => zstd.decompressLater(frame, limit).then(content),
  }
}

let sharedWasm: Promise<ZstdLibrary> | undefined

/** The module has one memory for the whole process: setting it up again would pull it from under its users. */
function wasmLibrary(): Promise<ZstdLibrary> {
  sharedWasm ??= loadWasm()
  return sharedWasm
}

async function loadWasm(): Promise<ZstdLibrary> {
  const wasm = await import('@bokuweb/zstd-wasm')
  await wasm.init()
  const decompress = (frame: Uint8Array, limit: number): Uint8Array =>
    wasm.decompress(frame, { defaultHeapSize: limit })
  return {
    compress: (input, limit) => fitting(wasm.compress(input, level), limit),
    decompress,
    decompressAsync: decompress,
  }
}

/** Loads whichever zstd this Node has. @throws BlockError ENOTSUP if there is none */
export async function loadZstd(): Promise<Codec> {
  const system = fastZstd()
  if (system !== undefined) {
    return zstdCodec(systemLibrary(system))
  }
  const native = zlib as unknown as Partial<NativeZstd>
  if (native.zstdDecompressSync !== undefined) {
    return zstdCodec(nativeLibrary(native as NativeZstd))
  }
  try {
    return zstdCodec(await wasmLibrary())
  } catch (error) {
    throw ioError('ENOTSUP', { operation: `load zstd: ${String(error)}` })
  }
}

/** Where in the input and the output the frames of a cluster have got. */
interface Progress {
  at: number
  filled: number
}

/** The next frame with content, which must fit into what is left of the output. */
function nextFrame(input: Uint8Array, output: Uint8Array, progress: Progress): Uint8Array {
  for (;;) {
    const rest = input.subarray(progress.at)
    const frame = zstdFrame(rest)
    if (frame === undefined || (frame.contentSize ?? 0) > output.length - progress.filled) {
      throw ioError('EIO')
    }
    progress.at += frame.length
    if (frame.contentSize !== 0) {
      return rest.subarray(0, frame.length)
    }
  }
}

function put(content: Uint8Array, output: Uint8Array, progress: Progress): void {
  if (content.length > output.length - progress.filled) {
    throw ioError('EIO')
  }
  output.set(content, progress.filled)
  progress.filled += content.length
}

/** A library's own errors say that the frame is corrupt. */
function corrupt(): never {
  throw ioError('EIO')
}

function zstdCodec(library: ZstdLibrary): Codec {
  return {
    compress: (input, limit) => {
      const output = library.compress(input, limit)
      return output instanceof Promise ? output.catch(corrupt) : output
    },

    // What follows the frame that fills the output is padding or another cluster: it is not looked at.
    decompress: (input, output) => {
      const progress: Progress = { at: 0, filled: 0 }
      while (progress.filled < output.length) {
        const frame = nextFrame(input, output, progress)
        let content: Uint8Array
        try {
          content = library.decompress(frame, output.length - progress.filled)
        } catch {
          corrupt()
        }
        put(content, output, progress)
      }
    },

    decompressAsync: async (input, output) => {
      const progress: Progress = { at: 0, filled: 0 }
      while (progress.filled < output.length) {
        const frame = nextFrame(input, output, progress)
        let content: Uint8Array
        try {
          content = await library.decompressAsync(frame, output.length - progress.filled)
        } catch {
          corrupt()
        }
        put(content, output, progress)
      }
    },
  }
}
