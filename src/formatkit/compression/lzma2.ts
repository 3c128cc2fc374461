import { ioError } from '../../errors/index.js'
import { LzmaDecoder } from './lzma.js'

/** The most that a chunk and its header take, and the most it holds. Bytes. */
export const maxChunkInput = 6 + 65536
export const maxChunkOutput = 2 << 20

/** A chunk's header. Sizes are bytes. */
export interface Lzma2Chunk {
  /** False: the end of the stream, one byte. */
  readonly more: boolean
  readonly headerBytes: number
  readonly inputBytes: number
  readonly outputBytes: number
}

const endOfStream: Lzma2Chunk = { more: false, headerBytes: 1, inputBytes: 0, outputBytes: 0 }

/** Decodes the chunks of an LZMA2 stream one after the other. */
export class Lzma2Decoder {
  readonly #lzma = new LzmaDecoder()
  #needsDictionaryReset = true
  #needsProperties = true
  #needsState = true
  /** Bytes since the dictionary was reset. */
  #total = 0

  /**
   * The header of the chunk at `at`; the caller has seen to it that six bytes are there, or all that is left.
   *
   * @throws BlockError EIO
   */
  static header(input: Uint8Array, at: number): Lzma2Chunk {
    const control = input[at]
    if (control === 0) {
      return endOfStream
    }
    const isLzma = control !== undefined && control >= 0x80
    const headerBytes = isLzma ? (control >= 0xc0 ? 6 : 5) : 3
    if (control === undefined || (!isLzma && control > 2) || at + headerBytes > input.length) {
      throw ioError('EIO')
    }
    const lower = ((input[at + 1] as number) << 8) | (input[at + 2] as number)
    if (!isLzma) {
      return { more: true, headerBytes, inputBytes: lower + 1, outputBytes: lower + 1 }
    }
    return {
      more: true,
      headerBytes,
      inputBytes: (((input[at + 3] as number) << 8) | (input[at + 4] as number)) + 1,
      outputBytes: ((control & 0x1f) << 16) + lower + 1,
    }
  }

  /**
   * Decodes the chunk at `at`, which is whole, into `out` at `position`, where there is room for it.
   *
   * @param dictionary the first byte of `out` that matches may refer to, unless the chunk resets it
   * @throws BlockError EIO if it is corrupt
   */
  decode(
    input: Uint8Array,
    at: number,
    chunk: Lzma2Chunk,
    out: Uint8Array,
    position: number,
    dictionary: number,
  ): void {
    const control = input[at] as number
    const data = at + chunk.headerBytes
    if (data + chunk.inputBytes > input.length) {
      throw ioError('EIO')
    }
    if (control === 1 || control >= 0xe0) {
      this.#needsDictionaryReset = false
      this.#total = 0
      // Properties go with the dictionary, a stored chunk excepted.
      this.#needsProperties = true
    } else if (this.#needsDictionaryReset) {
      throw ioError('EIO')
    }
    const start = Math.max(dictionary, position - this.#total)
    if (control < 0x80) {
      out.set(input.subarray(data, data + chunk.inputBytes), position)
      if (control === 1) {
        this.#needsState = true
      }
    } else {
      this.#prepare(control, input[data - 1] as number)
      const end = position + chunk.outputBytes
      this.#lzma.decode(input, data, data + chunk.inputBytes, out, position, end, start, this.#total)
    }
    this.#total += chunk.outputBytes
  }

  #prepare(control: number, properties: number): void {
    if (control >= 0xc0) {
      this.#lzma.setProperties(properties)
      this.#needsProperties = false
      this.#needsState = true
    } else if (this.#needsProperties) {
      throw ioError('EIO')
    }
    if (control >= 0xa0) {
      this.#lzma.resetState()
      this.#needsState = false
    } else if (this.#needsState) {
      throw ioError('EIO')
    }
  }
}
