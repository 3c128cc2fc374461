const crc32Table = new Uint32Array(256)
/** CRC-64 of ECMA-182, reflected, in halves. */
const crc64Upper = new Uint32Array(256)
const crc64Lower = new Uint32Array(256)
for (let i = 0; i < 256; i++) {
  let value = i
  let upper = 0
  let lower = i
  for (let bit = 0; bit < 8; bit++) {
    value = (value >>> 1) ^ (value & 1 ? 0xedb8_8320 : 0)
    const odd = lower & 1
    lower = ((lower >>> 1) | (upper << 31)) ^ (odd ? 0xd787_0f42 : 0)
    upper = (upper >>> 1) ^ (odd ? 0xc96c_5795 : 0)
  }
  crc32Table[i] = value
  crc64Upper[i] = upper
  crc64Lower[i] = lower
}

/** CRC-32 (IEEE 802.3) of `bytes[from, to)`, going on from the CRC of what came before. */
export function crc32(bytes: Uint8Array, from: number, to: number, previous = 0): number {
  let crc = ~previous
  for (let i = from; i < to; i++) {
    crc = (crc >>> 8) ^ (crc32Table[(crc ^ (bytes[i] as number)) & 255] as number)
  }
  return ~crc >>> 0
}

/** CRC-64 as xz uses it, piece by piece. */
export class Crc64 {
  #upper = -1
  #lower = -1

  update(bytes: Uint8Array, from: number, to: number): void {
    let upper = this.#upper
    let lower = this.#lower
    for (let i = from; i < to; i++) {
      const index = (lower ^ (bytes[i] as number)) & 255
      lower = ((lower >>> 8) | (upper << 24)) ^ (crc64Lower[index] as number)
      upper = (upper >>> 8) ^ (crc64Upper[index] as number)
    }
    this.#upper = upper
    this.#lower = lower
  }

  /** The halves of the result. */
  get upper(): number {
    return ~this.#upper >>> 0
  }

  get lower(): number {
    return ~this.#lower >>> 0
  }
}
