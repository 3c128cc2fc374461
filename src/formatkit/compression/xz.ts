import { readU32LE } from '../../bytes/index.js'
import { ioError } from '../../errors/index.js'
import { TimeSlice } from '../../sched/index.js'
import { Crc64, crc32 } from './checksums.js'
import { Lzma2Decoder } from './lzma2.js'
import { checkBytes, parseBlockHeader, parseStreamHeader, streamHeaderBytes } from './xz-container.js'

const checkCrc32 = 1
const checkCrc64 = 4

/** Follows the check of a block while it is decoded. SHA-256 is not looked at. */
export class XzCheck {
  readonly #kind: number
  readonly #crc64 = new Crc64()
  #crc32 = 0

  constructor(kind: number) {
    this.#kind = kind
  }

  update(bytes: Uint8Array, from: number, to: number): void {
    if (this.#kind === checkCrc32) {
      this.#crc32 = crc32(bytes, from, to, this.#crc32)
    } else if (this.#kind === checkCrc64) {
      this.#crc64.update(bytes, from, to)
    }
  }

  /** Compares with the check at `at`. @throws BlockError EIO */
  verify(bytes: Uint8Array, at: number): void {
    if (at + checkBytes(this.#kind) > bytes.length) {
      throw ioError('EIO')
    }
    const fails =
      this.#kind === checkCrc32
        ? readU32LE(bytes, at) !== this.#crc32
        : this.#kind === checkCrc64 &&
          (readU32LE(bytes, at) !== this.#crc64.lower || readU32LE(bytes, at + 4) !== this.#crc64.upper)
    if (fails) {
      throw ioError('EIO')
    }
  }
}

/**
 * Decodes a whole xz stream held in memory.
 *
 * @throws BlockError EIO unless its blocks are sound and hold exactly `output.length` bytes; what follows
 * the last block does not matter. ENOTSUP for filters other than LZMA2
 */
export async function decodeXz(input: Uint8Array, output: Uint8Array): Promise<void> {
  const kind = parseStreamHeader(input, 0)
  const slice = new TimeSlice()
  let filled = 0
  for (let at = streamHeaderBytes; at < input.length && input[at] !== 0; ) {
    const start = at
    const first = filled
    const decoder = new Lzma2Decoder()
    const check = new XzCheck(kind)
    at += parseBlockHeader(input, at).bytes
    for (;;) {
      const chunk = Lzma2Decoder.header(input, at)
      if (!chunk.more) {
        at += chunk.headerBytes
        break
      }
      if (chunk.outputBytes > output.length - filled) {
        throw ioError('EIO')
      }
      decoder.decode(input, at, chunk, output, filled, first)
      check.update(output, filled, filled + chunk.outputBytes)
      filled += chunk.outputBytes
      at += chunk.headerBytes + chunk.inputBytes
      await slice.breathe()
    }
    at += (4 - ((at - start) % 4)) % 4
    check.verify(input, at)
    at += checkBytes(kind)
  }
  if (filled !== output.length) {
    throw ioError('EIO')
  }
}
