/** Big-endian reads; what lies past the end of the bytes reads as zeroes, as in a short file. */
export class ByteReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  u8(at: number): number {
    return this.#bytes[at] ?? 0
  }

  u16(at: number): number {
    return (this.u8(at) << 8) | this.u8(at + 1)
  }

  u32(at: number): number {
    if (at + 4 <= this.#bytes.length) {
      return this.#view.getUint32(at)
    }
    return this.u16(at) * 0x10000 + this.u16(at + 2)
  }

  u64(at: number): bigint {
    return (BigInt(this.u32(at)) << 32n) | BigInt(this.u32(at + 4))
  }

  /** A copy of `[at, +length)`; the caller has bounded `length`. */
  slice(at: number, length: number): Uint8Array {
    const copy = new Uint8Array(length)
    copy.set(this.#bytes.subarray(at, at + length))
    return copy
  }

  /** The C string in `[at, +length)`: up to its NUL. */
  text(at: number, length: number): { text: string; bytes: Uint8Array } {
    const bytes = this.#bytes.subarray(at, at + length)
    const end = bytes.indexOf(0)
    const name = end < 0 ? bytes : bytes.subarray(0, end)
    return { text: new TextDecoder().decode(name), bytes: name.slice() }
  }
}
