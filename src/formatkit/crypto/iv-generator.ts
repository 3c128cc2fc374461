import type { BlockCipher } from '../../host/index.js'

/** Makes the initialisation vectors of sectors. */
export interface IvGenerator {
  /** Writes the vectors of `count` sectors from `sector` on, `bytes` bytes (8 or 16) each, to the start of `into`. */
  fill(sector: number, count: number, into: Uint8Array, bytes: number): void
  dispose(): void
}

/** The sector's number in the first bytes, little endian: `width` of them, the rest zero. */
function numbers(sector: number, count: number, into: Uint8Array, bytes: number, width: 4 | 8): void {
  const view = new DataView(into.buffer, into.byteOffset, into.byteLength)
  into.fill(0, 0, count * bytes)
  for (let i = 0; i < count; i++) {
    view.setUint32(i * bytes, (sector + i) % 0x100000000, true)
    if (width === 8) {
      view.setUint32(i * bytes + 4, Math.floor((sector + i) / 0x100000000), true)
    }
  }
}

/** `plain`: the sector number modulo 2^32, so that vectors repeat after 2 TiB. */
export const plain: IvGenerator = {
  fill: (sector, count, into, bytes) => numbers(sector, count, into, bytes, 4),
  dispose: () => undefined,
}

export const plain64: IvGenerator = {
  fill: (sector, count, into, bytes) => numbers(sector, count, into, bytes, 8),
  dispose: () => undefined,
}

/** `essiv`: the sector number enciphered under a hash of the key. */
export class Essiv implements IvGenerator {
  readonly #cipher: BlockCipher
  #blocks = new Uint8Array(0)

  /** @param cipher is this generator's own from now on */
  constructor(cipher: BlockCipher) {
    this.#cipher = cipher
  }

  fill(sector: number, count: number, into: Uint8Array, bytes: number): void {
    const { blockBytes } = this.#cipher
    if (this.#blocks.length < count * blockBytes) {
      this.#blocks = new Uint8Array(count * blockBytes)
    }
    const blocks = this.#blocks
    numbers(sector, count, blocks, blockBytes, 8)
    this.#cipher.encrypt(blocks, 0, count * blockBytes)
    const taken = Math.min(bytes, blockBytes)
    into.fill(0, 0, count * bytes)
    for (let i = 0; i < count; i++) {
      into.set(blocks.subarray(i * blockBytes, i * blockBytes + taken), i * bytes)
    }
  }

  dispose(): void {
    this.#blocks.fill(0)
    this.#cipher.dispose()
  }
}
