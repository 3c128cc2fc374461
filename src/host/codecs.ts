import type { Maybe } from '../sched/index.js'

/**
 * Compressors for image clusters. Inputs and outputs belong to the caller.
 *
 * `decompress` reads one stream that may be followed by padding and writes exactly
 * `output.length` bytes; a stream that is corrupt or too short throws a BlockError `EIO`.
 */
export interface Codec {
  /**
   * Compresses `input` into at most `limit` bytes; `undefined` if it does not fit.
   * May run on another thread; `input` must stay untouched until then.
   */
  compress(input: Uint8Array, limit: number): Maybe<Uint8Array | undefined>
  decompress(input: Uint8Array, output: Uint8Array): void
  /** As {@link decompress}, on another thread where the platform has one; for bulk work. */
  decompressAsync(input: Uint8Array, output: Uint8Array): Promise<void>
}

export interface HostCodecs {
  /** Raw deflate with a 4 KiB window (`windowBits` -12), as qcow2 stores it. */
  deflate(): Maybe<Codec>
  zstd(): Maybe<Codec>
}
