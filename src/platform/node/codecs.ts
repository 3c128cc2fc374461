import type { ByteStream, Codec, HostCodecs, ZlibDecoder } from '../../host/index.js'
import type { Maybe } from '../../sched/index.js'

/**
 * Compressors of Node and, for zstd, of a package. Both are loaded on first use: node:zlib brings all of
 * Node's streams with it, some 6 ms.
 */
export class NodeCodecs implements HostCodecs {
  #deflate: Maybe<Codec> | undefined
  #zstd: Maybe<Codec> | undefined

  #zlib: Maybe<ZlibDecoder> | undefined

  deflate(): Maybe<Codec> {
    this.#deflate ??= import('./deflate.js').then(({ deflateCodec }) => {
      this.#deflate = deflateCodec
      return deflateCodec
    })
    return this.#deflate
  }

  zstd(): Maybe<Codec> {
    this.#zstd ??= import('./zstd.js').then(async ({ loadZstd }) => {
      const codec = await loadZstd()
      this.#zstd = codec
      return codec
    })
    return this.#zstd
  }

  zlib(): Maybe<ZlibDecoder> {
    this.#zlib ??= import('./zlib.js').then(({ zlibDecoder }) => {
      this.#zlib = zlibDecoder
      return zlibDecoder
    })
    return this.#zlib
  }

  async *gunzip(input: ByteStream): AsyncGenerator<Uint8Array, void, void> {
    const { gunzip } = await import('./zlib.js')
    yield* gunzip(input)
  }
}
