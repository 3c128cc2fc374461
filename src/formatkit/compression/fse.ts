import { ioError } from '../../errors/index.js'

/** Bits of a byte range, taken from its end: each number is the most significant part of what is left. */
export class BackwardBits {
  readonly #bytes: Uint8Array
  readonly #start: number
  /** Where the unread bits end. */
  #position: number

  /**
   * @param start first byte that holds bits
   * @param end end of the last byte
   * @param slack bits of the last byte that do not count, 0 to -7
   * @throws BlockError EIO if those are not zero
   */
  constructor(bytes: Uint8Array, start: number, end: number, slack: number) {
    this.#bytes = bytes
    this.#start = start * 8
    this.#position = end * 8 + slack
    if (slack < -7 || slack > 0 || (slack < 0 && (bytes[end - 1] ?? 0) >> (8 + slack) !== 0)) {
      throw ioError('EIO')
    }
  }

  /** The next `count` bits, up to 24. @throws BlockError EIO if there are fewer */
  pull(count: number): number {
    const position = this.#position - count
    if (position < this.#start) {
      throw ioError('EIO')
    }
    this.#position = position
    const at = position >>> 3
    const bytes = this.#bytes
    const word =
      (bytes[at] ?? 0) |
      ((bytes[at + 1] ?? 0) << 8) |
      ((bytes[at + 2] ?? 0) << 16) |
      ((bytes[at + 3] ?? 0) << 24)
    return (word >>> (position & 7)) & ((1 << count) - 1)
  }
}

/**
 * Decoder of finite state entropy, by the frequencies of its symbols, which add up to at most the number
 * of states. Symbols stand for values of `base[symbol]` and `extra[symbol]` more bits.
 */
export class FseTable {
  readonly states: number
  readonly #bits: Uint8Array
  readonly #extra: Uint8Array
  readonly #delta: Int16Array
  readonly #base: Int32Array
  state = 0

  /** @throws BlockError EIO if the frequencies are too many */
  constructor(states: number, frequencies: Uint16Array, extra?: Uint8Array, base?: Int32Array) {
    this.states = states
    this.#bits = new Uint8Array(states)
    this.#extra = new Uint8Array(states)
    this.#delta = new Int16Array(states)
    this.#base = new Int32Array(states)
    let at = 0
    for (let symbol = 0; symbol < frequencies.length; symbol++) {
      const frequency = frequencies[symbol] as number
      if (at + frequency > states) {
        throw ioError('EIO')
      }
      if (frequency === 0) {
        continue
      }
      const shift = Math.clz32(frequency) - Math.clz32(states)
      const longer = ((2 * states) >> shift) - frequency
      for (let i = 0; i < frequency; i++) {
        const bits = i < longer ? shift : shift - 1
        this.#bits[at] = bits
        this.#extra[at] = extra?.[symbol] ?? 0
        this.#delta[at] = i < longer ? ((frequency + i) << shift) - states : (i - longer) << (shift - 1)
        this.#base[at] = base?.[symbol] ?? symbol
        at++
      }
    }
  }

  /** The next value; the state moves on. */
  decode(bits: BackwardBits): number {
    const { state } = this
    const next = (this.#delta[state] as number) + bits.pull(this.#bits[state] as number)
    const extra = this.#extra[state] as number
    const base = this.#base[state] as number
    this.state = next
    return extra === 0 ? base : base + bits.pull(extra)
  }

  /** As {@link decode} for a state that the caller keeps: symbols only. */
  symbol(state: number): number {
    return this.#base[state] as number
  }

  /** The state after `state`. */
  next(state: number, bits: BackwardBits): number {
    return (this.#delta[state] as number) + bits.pull(this.#bits[state] as number)
  }
}
