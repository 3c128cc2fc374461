import { ioError } from '../../errors/index.js'

const probInit = 1024
const posStatesMax = 16
const lowCoder = 2
const midCoder = lowCoder + posStatesMax * 8
const highCoder = midCoder + posStatesMax * 8
const lengthCoderSize = highCoder + 256

/** Where each set of probabilities starts in the one array of them. */
const isMatch = 0
const isRep = isMatch + 12 * posStatesMax
const isRepG0 = isRep + 12
const isRepG1 = isRepG0 + 12
const isRepG2 = isRepG1 + 12
const isRep0Long = isRepG2 + 12
const distSlot = isRep0Long + 12 * posStatesMax
const distSpecial = distSlot + 4 * 64
const distAlign = distSpecial + 115
const matchLength = distAlign + 16
const repLength = matchLength + lengthCoderSize
const literals = repLength + lengthCoderSize

function corrupt(): never {
  throw ioError('EIO')
}

/**
 * The LZMA decoder as LZMA2 uses it: it decodes one chunk at a time into a buffer that also holds what was
 * decoded before, the dictionary.
 */
export class LzmaDecoder {
  #probs = new Uint16Array(literals)
  #lc = 0
  #lpMask = 0
  #pbMask = 0
  #state = 0
  #rep0 = 0
  #rep1 = 0
  #rep2 = 0
  #rep3 = 0
  #range = 0
  #code = 0
  #input: Uint8Array = new Uint8Array(0)
  #at = 0
  #end = 0

  /** Takes the properties byte. @throws BlockError EIO if LZMA2 does not have it */
  setProperties(value: number): void {
    const pb = Math.floor(value / 45)
    const lp = Math.floor((value % 45) / 9)
    const lc = value % 9
    if (pb > 4 || lc + lp > 4) {
      corrupt()
    }
    this.#lc = lc
    this.#lpMask = (1 << lp) - 1
    this.#pbMask = (1 << pb) - 1
    const size = literals + (0x300 << (lc + lp))
    if (this.#probs.length !== size) {
      this.#probs = new Uint16Array(size)
    }
  }

  /** Forgets what was learnt, but not the dictionary. */
  resetState(): void {
    this.#probs.fill(probInit)
    this.#state = 0
    this.#rep0 = 0
    this.#rep1 = 0
    this.#rep2 = 0
    this.#rep3 = 0
  }

  /**
   * Decodes `input[from, to)`, all of it, into `out[at, end)`.
   *
   * @param dictionary where in `out` the bytes start that matches may refer to
   * @param total bytes decoded since the dictionary was reset: what literals and matches are aligned to
   * @throws BlockError EIO if the chunk is corrupt
   */
  decode(
    input: Uint8Array,
    from: number,
    to: number,
    out: Uint8Array,
    at: number,
    end: number,
    dictionary: number,
    total: number,
  ): void {
    if (to - from < 5 || input[from] !== 0) {
      corrupt()
    }
    this.#input = input
    this.#at = from + 1
    this.#end = to
    this.#range = -1
    this.#code = 0
    for (let i = 0; i < 4; i++) {
      this.#code = (this.#code << 8) | (input[this.#at++] as number)
    }
    const shift = total - at
    let position = at
    while (position < end) {
      const posState = (position + shift) & this.#pbMask
      const state = this.#state
      if (this.#bit(isMatch + state * posStatesMax + posState) === 0) {
        this.#literal(out, position, dictionary, (position + shift) & this.#lpMask)
        position++
        continue
      }
      let length: number
      if (this.#bit(isRep + state) === 0) {
        this.#rep3 = this.#rep2
        this.#rep2 = this.#rep1
        this.#rep1 = this.#rep0
        this.#state = state < 7 ? 7 : 10
        length = this.#length(matchLength, posState)
        this.#rep0 = this.#distance(length)
      } else {
        length = this.#repeat(state, posState)
      }
      const distance = this.#rep0 + 1
      if (distance > position - dictionary || length > end - position) {
        corrupt()
      }
      if (distance >= length && length > 16) {
        out.copyWithin(position, position - distance, position - distance + length)
        position += length
      } else {
        for (const stop = position + length; position < stop; position++) {
          out[position] = out[position - distance] as number
        }
      }
    }
    if (this.#range >>> 0 < 0x100_0000) {
      this.#normalise()
    }
    if (this.#at !== to || this.#code !== 0) {
      corrupt()
    }
  }

  #normalise(): void {
    if (this.#at >= this.#end) {
      corrupt()
    }
    this.#range <<= 8
    this.#code = (this.#code << 8) | (this.#input[this.#at++] as number)
  }

  /** Decodes one bit by the probability at `index`. */
  #bit(index: number): number {
    if (this.#range >>> 0 < 0x100_0000) {
      this.#normalise()
    }
    const probs = this.#probs
    const prob = probs[index] as number
    const bound = Math.imul(this.#range >>> 11, prob)
    if (this.#code >>> 0 < bound >>> 0) {
      this.#range = bound
      probs[index] = prob + ((2048 - prob) >> 5)
      return 0
    }
    this.#range = (this.#range - bound) | 0
    this.#code = (this.#code - bound) | 0
    probs[index] = prob - (prob >> 5)
    return 1
  }

  /** Bits without probabilities. */
  #direct(count: number): number {
    let value = 0
    for (let i = 0; i < count; i++) {
      if (this.#range >>> 0 < 0x100_0000) {
        this.#normalise()
      }
      const range = this.#range >>> 1
      this.#range = range
      if (this.#code >>> 0 >= range) {
        this.#code = (this.#code - range) | 0
        value = (value << 1) | 1
      } else {
        value <<= 1
      }
    }
    return value >>> 0
  }

  #tree(base: number, bits: number): number {
    let node = 1
    for (let i = 0; i < bits; i++) {
      node = (node << 1) | this.#bit(base + node)
    }
    return node - (1 << bits)
  }

  #reverseTree(base: number, bits: number): number {
    let node = 1
    let value = 0
    for (let i = 0; i < bits; i++) {
      const bit = this.#bit(base + node)
      node = (node << 1) | bit
      value |= bit << i
    }
    return value
  }

  #literal(out: Uint8Array, position: number, dictionary: number, aligned: number): void {
    const previous = position > dictionary ? (out[position - 1] as number) : 0
    const base = literals + 0x300 * ((aligned << this.#lc) + (previous >> (8 - this.#lc)))
    const state = this.#state
    let symbol = 1
    if (state >= 7) {
      // After a match the byte differs from the one that would have gone on with it.
      if (this.#rep0 + 1 > position - dictionary) {
        corrupt()
      }
      let expected = out[position - this.#rep0 - 1] as number
      let offset = 0x100
      while (symbol < 0x100) {
        expected <<= 1
        const match = expected & offset
        const bit = this.#bit(base + offset + match + symbol)
        symbol = (symbol << 1) | bit
        offset = bit === 0 ? offset & ~match : match
      }
    } else {
      while (symbol < 0x100) {
        symbol = (symbol << 1) | this.#bit(base + symbol)
      }
    }
    out[position] = symbol
    this.#state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6
  }

  #length(coder: number, posState: number): number {
    if (this.#bit(coder) === 0) {
      return 2 + this.#tree(coder + lowCoder + posState * 8, 3)
    }
    if (this.#bit(coder + 1) === 0) {
      return 10 + this.#tree(coder + midCoder + posState * 8, 3)
    }
    return 18 + this.#tree(coder + highCoder, 8)
  }

  /** The distance of a match less one. */
  #distance(length: number): number {
    const slot = this.#tree(distSlot + Math.min(length - 2, 3) * 64, 6)
    if (slot < 4) {
      return slot
    }
    const bits = (slot >> 1) - 1
    const upper = (2 | (slot & 1)) * 2 ** bits
    if (slot < 14) {
      return upper + this.#reverseTree(distSpecial + upper - slot, bits)
    }
    return upper + this.#direct(bits - 4) * 16 + this.#reverseTree(distAlign, 4)
  }

  /** A match at one of the four distances used last; its length. */
  #repeat(state: number, posState: number): number {
    if (this.#bit(isRepG0 + state) === 0) {
      if (this.#bit(isRep0Long + state * posStatesMax + posState) === 0) {
        this.#state = state < 7 ? 9 : 11
        return 1
      }
    } else {
      let distance: number
      if (this.#bit(isRepG1 + state) === 0) {
        distance = this.#rep1
      } else {
        if (this.#bit(isRepG2 + state) === 0) {
          distance = this.#rep2
        } else {
          distance = this.#rep3
          this.#rep3 = this.#rep2
        }
        this.#rep2 = this.#rep1
      }
      this.#rep1 = this.#rep0
      this.#rep0 = distance
    }
    this.#state = state < 7 ? 8 : 11
    return this.#length(repLength, posState)
  }
}
