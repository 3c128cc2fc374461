/** Bits of a byte array, the most significant of each byte first. Past the end it reads zeroes. */
export class BitReader {
  readonly #bytes: Uint8Array
  /** Position in bits from the start of the array. */
  position: number

  constructor(bytes: Uint8Array, position: number) {
    this.#bytes = bytes
    this.position = position
  }

  /** Whether more was read than there is. */
  get exhausted(): boolean {
    return this.position > this.#bytes.length * 8
  }

  /** The next `count` bits (0 to 24), which stay unread. */
  peek(count: number): number {
    const at = this.position >>> 3
    const bytes = this.#bytes
    const word =
      ((bytes[at] ?? 0) << 24) |
      ((bytes[at + 1] ?? 0) << 16) |
      ((bytes[at + 2] ?? 0) << 8) |
      (bytes[at + 3] ?? 0)
    return count === 0 ? 0 : (word << (this.position & 7)) >>> (32 - count)
  }

  read(count: number): number {
    const value = this.peek(count)
    this.position += count
    return value
  }

  /** A number of 32 bits. */
  read32(): number {
    const upper = this.read(16)
    return upper * 0x10000 + this.read(16)
  }
}
