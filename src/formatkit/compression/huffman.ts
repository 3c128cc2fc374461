import { ioError } from '../../errors/index.js'
import type { BitReader } from './bit-reader.js'

const fastBits = 10
const maxBits = 20

/** Decodes canonical Huffman codes of up to 20 bits, as bzip2 numbers them. */
export class HuffmanTable {
  /** By the next bits: symbol × 32 + length, 0 for codes that are longer. */
  readonly #fast = new Uint16Array(1 << fastBits)
  /** The first code of each length, and where its symbol stands in {@link #symbols}. */
  readonly #first = new Int32Array(maxBits + 2)
  readonly #index = new Int32Array(maxBits + 2)
  readonly #counts = new Int32Array(maxBits + 1)
  readonly #symbols: Uint16Array

  /** @param lengths bits of each symbol's code, 1 to 20 */
  constructor(lengths: Uint8Array) {
    for (const length of lengths) {
      this.#counts[length] = (this.#counts[length] as number) + 1
    }
    this.#symbols = new Uint16Array(lengths.length)
    let code = 0
    let index = 0
    for (let length = 1; length <= maxBits; length++) {
      this.#first[length] = code
      this.#index[length] = index
      for (let symbol = 0; symbol < lengths.length; symbol++) {
        if (lengths[symbol] === length) {
          this.#symbols[index++] = symbol
          if (length <= fastBits && code < 1 << length) {
            const from = code << (fastBits - length)
            this.#fast.fill(symbol * 32 + length, from, from + (1 << (fastBits - length)))
          }
          code++
        }
      }
      code <<= 1
    }
  }

  /** The next symbol. @throws BlockError EIO for bits that are no code */
  decode(bits: BitReader): number {
    const next = bits.peek(maxBits)
    const fast = this.#fast[next >>> (maxBits - fastBits)] as number
    if (fast !== 0) {
      bits.position += fast & 31
      return fast >>> 5
    }
    for (let length = fastBits + 1; length <= maxBits; length++) {
      const place = (next >>> (maxBits - length)) - (this.#first[length] as number)
      if (place >= 0 && place < (this.#counts[length] as number)) {
        bits.position += length
        return this.#symbols[(this.#index[length] as number) + place] as number
      }
    }
    throw ioError('EIO')
  }
}
