import type { BlockCipher } from '../../host/index.js'
import type { IvGenerator } from './iv-generator.js'
import type { CipherMode } from './names.js'

/** Bytes of a sector: the unit that has an initialisation vector of its own. */
export const sectorBytes = 512

/** Sectors that go through the cipher at a time. Measured: docs/decisions/0006-block-ciphers.md. */
const chunkSectors = 128
const chunkBytes = chunkSectors * sectorBytes

/**
 * Enciphers whole sectors in place: each one on its own, by its number. Buffers need no alignment.
 * Memory is bounded by one chunk whatever the size of a request.
 */
export interface SectorCipher {
  /** @param sector the number of the first sector; `bytes` is a multiple of 512 */
  encrypt(sector: number, buffer: Uint8Array, offset: number, bytes: number): void
  decrypt(sector: number, buffer: Uint8Array, offset: number, bytes: number): void
  /** Wipes what is left of keys and data. */
  dispose(): void
}

/** What the chained modes share: the request in chunks, each copied to words of its own. */
abstract class ChunkedCipher implements SectorCipher {
  protected readonly cipher: BlockCipher
  readonly #ivgen: IvGenerator
  protected readonly scratch = new Uint8Array(chunkBytes)
  protected readonly words = new Uint32Array(this.scratch.buffer)
  protected readonly ivs: Uint8Array
  protected readonly ivWords: Uint32Array

  constructor(cipher: BlockCipher, ivgen: IvGenerator) {
    this.cipher = cipher
    this.#ivgen = ivgen
    this.ivs = new Uint8Array(chunkSectors * cipher.blockBytes)
    this.ivWords = new Uint32Array(this.ivs.buffer)
  }

  encrypt(sector: number, buffer: Uint8Array, offset: number, bytes: number): void {
    this.#run(sector, buffer, offset, bytes, true)
  }

  decrypt(sector: number, buffer: Uint8Array, offset: number, bytes: number): void {
    this.#run(sector, buffer, offset, bytes, false)
  }

  #run(sector: number, buffer: Uint8Array, offset: number, bytes: number, encrypts: boolean): void {
    for (let done = 0; done < bytes; done += chunkBytes) {
      const part = Math.min(chunkBytes, bytes - done)
      const count = part / sectorBytes
      this.#ivgen.fill(sector + done / sectorBytes, count, this.ivs, this.cipher.blockBytes)
      this.scratch.set(buffer.subarray(offset + done, offset + done + part))
      if (encrypts) {
        this.encryptChunk(count, part)
      } else {
        this.decryptChunk(count, part)
      }
      buffer.set(part === chunkBytes ? this.scratch : this.scratch.subarray(0, part), offset + done)
    }
  }

  /** Works on the first `bytes` bytes of the scratch, which are `count` sectors. */
  protected abstract encryptChunk(count: number, bytes: number): void
  protected abstract decryptChunk(count: number, bytes: number): void

  dispose(): void {
    this.scratch.fill(0)
    this.ivs.fill(0)
    this.#ivgen.dispose()
    this.cipher.dispose()
  }
}

/** `into[i] ^= from[i]` for the first `count` words. */
function xorWords(into: Uint32Array, from: Uint32Array, count: number): void {
  for (let i = 0; i < count; i++) {
    into[i] = (into[i] as number) ^ (from[i] as number)
  }
}

/** XTS (IEEE 1619) with 512-byte units: every block is masked before and after by a power of alpha. */
class XtsCipher extends ChunkedCipher {
  readonly #tweakCipher: BlockCipher
  readonly #masks = new Uint8Array(chunkBytes)
  readonly #maskWords = new Uint32Array(this.#masks.buffer)

  constructor(cipher: BlockCipher, tweakCipher: BlockCipher, ivgen: IvGenerator) {
    super(cipher, ivgen)
    this.#tweakCipher = tweakCipher
  }

  #fillMasks(count: number): void {
    this.#tweakCipher.encrypt(this.ivs, 0, count * 16)
    const tweaks = new DataView(this.ivs.buffer)
    const masks = new DataView(this.#masks.buffer)
    for (let sector = 0; sector < count; sector++) {
      let a = tweaks.getInt32(sector * 16, true)
      let b = tweaks.getInt32(sector * 16 + 4, true)
      let c = tweaks.getInt32(sector * 16 + 8, true)
      let d = tweaks.getInt32(sector * 16 + 12, true)
      const end = (sector + 1) * sectorBytes
      for (let at = sector * sectorBytes; at < end; at += 16) {
        masks.setInt32(at, a, true)
        masks.setInt32(at + 4, b, true)
        masks.setInt32(at + 8, c, true)
        masks.setInt32(at + 12, d, true)
        // Times alpha in GF(2^128): one bit up, and what falls out comes back as 0x87.
        const out = (d >> 31) & 0x87
        d = (d << 1) | (c >>> 31)
        c = (c << 1) | (b >>> 31)
        b = (b << 1) | (a >>> 31)
        a = (a << 1) ^ out
      }
    }
  }

  protected override encryptChunk(count: number, bytes: number): void {
    this.#fillMasks(count)
    xorWords(this.words, this.#maskWords, bytes / 4)
    this.cipher.encrypt(this.scratch, 0, bytes)
    xorWords(this.words, this.#maskWords, bytes / 4)
  }

  protected override decryptChunk(count: number, bytes: number): void {
    this.#fillMasks(count)
    xorWords(this.words, this.#maskWords, bytes / 4)
    this.cipher.decrypt(this.scratch, 0, bytes)
    xorWords(this.words, this.#maskWords, bytes / 4)
  }

  override dispose(): void {
    super.dispose()
    this.#masks.fill(0)
    this.#tweakCipher.dispose()
  }
}

/** CBC: each block is masked by the enciphered block before it, the first by the vector. */
class CbcCipher extends ChunkedCipher {
  readonly #previous = new Uint8Array(chunkBytes)
  readonly #previousWords = new Uint32Array(this.#previous.buffer)

  /**
   * A sector is a chain, but the sectors are independent: the first blocks of all of them go through the
   * cipher in one call, then the second blocks.
   */
  protected override encryptChunk(count: number): void {
    const { words, ivWords } = this
    const { blockBytes } = this.cipher
    const blockWords = blockBytes / 4
    const sectorWords = sectorBytes / 4
    const row = this.#previous
    const rowWords = this.#previousWords
    rowWords.set(ivWords.subarray(0, count * blockWords))
    for (let block = 0; block < sectorWords; block += blockWords) {
      for (let sector = 0; sector < count; sector++) {
        const at = sector * sectorWords + block
        for (let i = 0; i < blockWords; i++) {
          const word = sector * blockWords + i
          rowWords[word] = (rowWords[word] as number) ^ (words[at + i] as number)
        }
      }
      this.cipher.encrypt(row, 0, count * blockBytes)
      for (let sector = 0; sector < count; sector++) {
        const at = sector * sectorWords + block
        for (let i = 0; i < blockWords; i++) {
          words[at + i] = rowWords[sector * blockWords + i] as number
        }
      }
    }
  }

  protected override decryptChunk(count: number, bytes: number): void {
    const { blockBytes } = this.cipher
    const blockWords = blockBytes / 4
    const sectorWords = sectorBytes / 4
    const previous = this.#previousWords
    // The mask of each block is the block before it as it came in.
    previous.set(this.words.subarray(0, bytes / 4 - blockWords), blockWords)
    for (let sector = 0; sector < count; sector++) {
      for (let i = 0; i < blockWords; i++) {
        previous[sector * sectorWords + i] = this.ivWords[sector * blockWords + i] as number
      }
    }
    this.cipher.decrypt(this.scratch, 0, bytes)
    xorWords(this.words, previous, bytes / 4)
  }

  override dispose(): void {
    super.dispose()
    this.#previous.fill(0)
  }
}

/** CTR: the data is masked by the enciphered counter, which starts at the vector and counts big endian. */
class CtrCipher extends ChunkedCipher {
  readonly #counters = new Uint8Array(chunkBytes)
  readonly #counterWords = new Uint32Array(this.#counters.buffer)

  protected override encryptChunk(count: number, bytes: number): void {
    const { blockBytes } = this.cipher
    const counters = this.#counters
    for (let sector = 0; sector < count; sector++) {
      let at = sector * sectorBytes
      counters.set(this.ivs.subarray(sector * blockBytes, (sector + 1) * blockBytes), at)
      for (const end = at + sectorBytes - blockBytes; at < end; at += blockBytes) {
        counters.copyWithin(at + blockBytes, at, at + blockBytes)
        increment(counters, at + blockBytes, blockBytes)
      }
    }
    this.cipher.encrypt(counters, 0, bytes)
    xorWords(this.words, this.#counterWords, bytes / 4)
  }

  protected override decryptChunk(count: number, bytes: number): void {
    this.encryptChunk(count, bytes)
  }

  override dispose(): void {
    super.dispose()
    this.#counters.fill(0)
  }
}

function increment(counters: Uint8Array, offset: number, bytes: number): void {
  for (let at = offset + bytes - 1; at >= offset; at--) {
    const value = ((counters[at] as number) + 1) & 0xff
    counters[at] = value
    if (value !== 0) {
      return
    }
  }
}

/** ECB: the same block is always enciphered to the same; sector numbers do not matter. */
class EcbCipher implements SectorCipher {
  readonly #cipher: BlockCipher
  readonly #ivgen: IvGenerator

  constructor(cipher: BlockCipher, ivgen: IvGenerator) {
    this.#cipher = cipher
    this.#ivgen = ivgen
  }

  encrypt(_sector: number, buffer: Uint8Array, offset: number, bytes: number): void {
    this.#cipher.encrypt(buffer, offset, bytes)
  }

  decrypt(_sector: number, buffer: Uint8Array, offset: number, bytes: number): void {
    this.#cipher.decrypt(buffer, offset, bytes)
  }

  dispose(): void {
    this.#cipher.dispose()
    this.#ivgen.dispose()
  }
}

/**
 * The mode over a block cipher. The result owns its parts.
 *
 * @param tweakCipher for XTS: the cipher under the second half of the key; both have blocks of 16 bytes
 */
export function sectorCipher(
  mode: CipherMode,
  cipher: BlockCipher,
  tweakCipher: BlockCipher | undefined,
  ivgen: IvGenerator,
): SectorCipher {
  switch (mode) {
    case 'xts':
      if (tweakCipher === undefined) {
        throw new Error('XTS needs two ciphers')
      }
      return new XtsCipher(cipher, tweakCipher, ivgen)
    case 'cbc':
      return new CbcCipher(cipher, ivgen)
    case 'ctr':
      return new CtrCipher(cipher, ivgen)
    case 'ecb':
      return new EcbCipher(cipher, ivgen)
  }
}
