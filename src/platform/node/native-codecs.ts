import { callLater, type KoffiFunction, systemLibrary } from './koffi.js'

// Compression libraries of the system, which most have: a small cluster costs a fraction of what Node's own
// interfaces take for it (measured, bench/README.md). Where one is missing, the callers use what Node has.

/** Objects of a library, each used by one call at a time. */
class Contexts {
  readonly #make: KoffiFunction
  readonly #idle: unknown[] = []

  constructor(make: KoffiFunction) {
    this.#make = make
  }

  take(): unknown {
    return this.#idle.pop() ?? this.#make()
  }

  give(context: unknown): void {
    this.#idle.push(context)
  }
}

/** Decoder of raw deflate. */
export interface FastInflate {
  /** Fills `output`. False: it did not come out exactly; whether the input is corrupt is for others to say. */
  inflate(input: Uint8Array, output: Uint8Array): boolean
  /** The same on another thread. */
  inflateLater(input: Uint8Array, output: Uint8Array): Promise<boolean>
}

let inflate: FastInflate | undefined | null = null

/** libdeflate, if the system has it. */
export function fastInflate(): FastInflate | undefined {
  if (inflate === null) {
    inflate = systemLibrary('libdeflate.so.0', (library) => {
      const contexts = new Contexts(library.func('void *libdeflate_alloc_decompressor()'))
      const decompress = library.func(
        'int libdeflate_deflate_decompress(void *d, void *input, size_t bytes, void *output, size_t room, void *actual)',
      )
      // Without a place for the length it succeeds only if the output is filled exactly.
      const call = (context: unknown, input: Uint8Array, output: Uint8Array): unknown[] => [
        context,
        input,
        input.length,
        output,
        output.length,
        null,
      ]
      return {
        inflate: (input, output) => {
          const context = contexts.take()
          const result = decompress(...call(context, input, output))
          contexts.give(context)
          return result === 0
        },
        inflateLater: async (input, output) => {
          const context = contexts.take()
          const result = await callLater(decompress, call(context, input, output), Number)
          contexts.give(context)
          return result === 0
        },
      }
    })
  }
  return inflate
}

/** Frames of Zstandard. */
export interface FastZstd {
  /** One frame that states its content size, of at most `limit` bytes; undefined: it does not fit. On another thread. */
  compressLater(input: Uint8Array, level: number, limit: number): Promise<Uint8Array | undefined>
  /** The content of one whole frame, at most `limit` bytes. Undefined: corrupt, or more than that. */
  decompress(frame: Uint8Array, limit: number): Uint8Array | undefined
  decompressLater(frame: Uint8Array, limit: number): Promise<Uint8Array | undefined>
}

/** Results of the library above this are errors: negated numbers of its own, as a size_t. */
const largestSize = 2 ** 53

let zstd: FastZstd | undefined | null = null

/** libzstd, if the system has it. */
export function fastZstd(): FastZstd | undefined {
  if (zstd === null) {
    zstd = systemLibrary('libzstd.so.1', (library) => {
      const compressors = new Contexts(library.func('void *ZSTD_createCCtx()'))
      const decompressors = new Contexts(library.func('void *ZSTD_createDCtx()'))
      const compress = library.func(
        'size_t ZSTD_compressCCtx(void *context, void *output, size_t room, void *input, size_t bytes, int level)',
      )
      const decompress = library.func(
        'size_t ZSTD_decompressDCtx(void *context, void *output, size_t room, void *input, size_t bytes)',
      )
      const filled = (output: Uint8Array, result: number): Uint8Array | undefined =>
        result > largestSize ? undefined : output.subarray(0, result)
      return {
        compressLater: async (input, level, limit) => {
          const context = compressors.take()
          // With less room than it could need at most the library takes care, and gives up too early.
          const output = new Uint8Array(input.length + (input.length >>> 7) + 512)
          const result = await callLater(
            compress,
            [context, output, output.length, input, input.length, level],
            Number,
          )
          compressors.give(context)
          return result > limit ? undefined : output.subarray(0, result)
        },
        decompress: (frame, limit) => {
          const context = decompressors.take()
          const output = new Uint8Array(limit)
          const result = Number(decompress(context, output, limit, frame, frame.length))
          decompressors.give(context)
          return filled(output, result)
        },
        decompressLater: async (frame, limit) => {
          const context = decompressors.take()
          const output = new Uint8Array(limit)
          const result = await callLater(decompress, [context, output, limit, frame, frame.length], Number)
          decompressors.give(context)
          return filled(output, result)
        },
      }
    })
  }
  return zstd
}
