import type { Codec, HostCodecs } from '../../host/index.js'
import { deflateCodec } from './deflate.js'
import { loadZstd } from './zstd.js'

/** Compressors of Node and, for zstd, of a package that is loaded on first use. */
export class NodeCodecs implements HostCodecs {
  #zstd: Codec | Promise<Codec> | undefined

  deflate(): Codec {
    return deflateCodec
  }

  zstd(): Codec | Promise<Codec> {
    this.#zstd ??= loadZstd().then((codec) => {
      this.#zstd = codec
      return codec
    })
    return this.#zstd
  }
}
