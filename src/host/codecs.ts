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

/** What a stream decoder reads, and what it gives: pieces of any size, which the taker may keep. */
export type ByteStream = AsyncIterable<Uint8Array>

/** Decoder of zlib streams (RFC 1950) as old compressed images have them. */
export interface ZlibDecoder {
  /**
   * Decodes one whole stream that holds exactly `output.length` bytes, on another thread where the platform
   * has one. What follows the stream does not matter. Rejects with EIO if it is corrupt.
   */
  decompressAsync(input: Uint8Array, output: Uint8Array): Promise<void>
  /** The same for input that is too large to be held in memory. */
  decompressStream(input: ByteStream, output: Uint8Array): Promise<void>
}

export interface HostCodecs {
  /** Raw deflate with a 4 KiB window (`windowBits` -12), as qcow2 stores it. */
  deflate(): Maybe<Codec>
  zstd(): Maybe<Codec>
  /** Absent: images compressed so cannot be read. */
  zlib?(): Maybe<ZlibDecoder>
  /** Decodes gzip members one after the other; fails with EIO where they are corrupt. Absent: not to be had. */
  gunzip?(input: ByteStream): AsyncGenerator<Uint8Array, void, void>
}
