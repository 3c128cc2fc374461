import { writeU16BE, writeU32BE, writeU64BE } from '../bytes/index.js'

const encoder = new TextEncoder()

/** Puts messages of the handshake together. */
export class ByteBuilder {
  #bytes = new Uint8Array(64)
  #length = 0

  #room(bytes: number): number {
    const at = this.#length
    this.#length += bytes
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.#length, this.#bytes.length * 2))
      larger.set(this.#bytes.subarray(0, at))
      this.#bytes = larger
    }
    return at
  }

  u16(value: number): this {
    const at = this.#room(2)
    writeU16BE(this.#bytes, at, value)
    return this
  }

  u32(value: number): this {
    const at = this.#room(4)
    writeU32BE(this.#bytes, at, value)
    return this
  }

  u64(value: number): this {
    const at = this.#room(8)
    writeU64BE(this.#bytes, at, value)
    return this
  }

  magic([high, low]: readonly [number, number]): this {
    return this.u32(high).u32(low)
  }

  bytes(bytes: Uint8Array): this {
    const at = this.#room(bytes.length)
    this.#bytes.set(bytes, at)
    return this
  }

  /** UTF-8, without its length. */
  text(text: string): this {
    return this.bytes(encoder.encode(text))
  }

  zeroes(bytes: number): this {
    this.#room(bytes)
    return this
  }

  /** What was put together; later additions do not change it. */
  take(): Uint8Array {
    return this.#bytes.slice(0, this.#length)
  }
}
