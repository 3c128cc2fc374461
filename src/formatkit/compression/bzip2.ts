import { ioError } from '../../errors/index.js'
import { TimeSlice } from '../../sched/index.js'
import { BitReader } from './bit-reader.js'
import { HuffmanTable } from './huffman.js'

const maxGroups = 6
const groupSymbols = 50
const maxSelectors = 32768
/** Bits of the number that starts a block, or the end of a stream, in halves of 24. */
const blockMagic = [0x314159, 0x265359] as const
const endMagic = [0x177245, 0x385090] as const

/** The most that a block and its header can take, compressed: 20 bits a symbol. Bytes. */
export const maxBlockInput = Math.ceil((900_000 * 20) / 8) + maxSelectors + 4096

const crcTable = new Uint32Array(256)
for (let i = 0; i < 256; i++) {
  let value = i << 24
  for (let bit = 0; bit < 8; bit++) {
    value = value & 0x8000_0000 ? (value << 1) ^ 0x04c1_1db7 : value << 1
  }
  crcTable[i] = value
}

/** What stands at some position of a bzip2 stream. Positions are bits. */
export type Bzip2Part =
  | { readonly kind: 'block'; readonly next: number; readonly crc: number; readonly data: Uint8Array }
  /** `next` is where another stream would start: a whole byte. */
  | { readonly kind: 'end'; readonly next: number; readonly crc: number }

function corrupt(): never {
  throw ioError('EIO')
}

/**
 * Decodes the blocks of bzip2 streams, one at a time and in any order. The result of a block is valid
 * until the next one is decoded.
 */
export class Bzip2Decoder {
  /** Symbols in the order of the sorted block; later also where each one's successor is. */
  readonly #sorted = new Uint32Array(900_000)
  readonly #selectors = new Uint8Array(maxSelectors)
  #output: Uint8Array = new Uint8Array(1 << 20)

  /**
   * Reads the header of a stream at the start of `bytes`: the size of its blocks in bytes, or undefined if
   * it is none.
   */
  static blockBytes(bytes: Uint8Array): number | undefined {
    const level = (bytes[3] ?? 0) - 0x30
    const isHeader = bytes[0] === 0x42 && bytes[1] === 0x5a && bytes[2] === 0x68
    return isHeader && level >= 1 && level <= 9 ? level * 100_000 : undefined
  }

  /**
   * What stands at bit `position` of `input`, of which a whole block must be there.
   *
   * @param blockBytes size of the stream's blocks, from its header
   * @param limit bytes that a decoded block may hold
   * @throws BlockError EIO if it is corrupt, or the block holds more
   */
  decode(input: Uint8Array, position: number, blockBytes: number, limit: number): Bzip2Part {
    const bits = new BitReader(input, position)
    const upper = bits.read(24)
    const lower = bits.read(24)
    const crc = bits.read32()
    if (upper === endMagic[0] && lower === endMagic[1]) {
      if (bits.exhausted) {
        corrupt()
      }
      return { kind: 'end', next: Math.ceil(bits.position / 8) * 8, crc }
    }
    if (upper !== blockMagic[0] || lower !== blockMagic[1]) {
      corrupt()
    }
    const randomised = bits.read(1)
    const start = bits.read(24)
    if (randomised !== 0) {
      // Nobody has written this since 1997.
      corrupt()
    }
    const count = this.#readSymbols(bits, blockBytes)
    if (start >= count || bits.exhausted) {
      corrupt()
    }
    const length = this.#unsort(count, start, limit)
    const data = this.#output.subarray(0, length)
    if (blockCrc(data) !== crc) {
      corrupt()
    }
    return { kind: 'block', next: bits.position, crc, data }
  }

  /** Decodes the symbols of a block into the lower bytes of `#sorted`; how many there are. */
  #readSymbols(bits: BitReader, blockBytes: number): number {
    const alphabet = readAlphabet(bits)
    const groups = bits.read(3)
    const selectors = bits.read(15)
    if (alphabet.length === 0 || groups < 2 || groups > maxGroups || selectors === 0) {
      corrupt()
    }
    this.#readSelectors(bits, groups, selectors)
    const tables: HuffmanTable[] = []
    for (let i = 0; i < groups; i++) {
      tables.push(readTable(bits, alphabet.length + 2))
    }
    return this.#readRuns(bits, alphabet, tables, selectors, blockBytes)
  }

  #readSelectors(bits: BitReader, groups: number, selectors: number): void {
    const order = [0, 1, 2, 3, 4, 5]
    for (let i = 0; i < selectors; i++) {
      let place = 0
      while (bits.read(1) === 1) {
        place++
        if (place >= groups) {
          corrupt()
        }
      }
      const [selector = 0] = order.splice(place, 1)
      order.unshift(selector)
      this.#selectors[i] = selector
    }
  }

  /** Undoes the Huffman codes, runs and move-to-front. */
  #readRuns(
    bits: BitReader,
    alphabet: Uint8Array,
    tables: readonly HuffmanTable[],
    selectors: number,
    blockBytes: number,
  ): number {
    const sorted = this.#sorted
    const end = alphabet.length + 1
    let count = 0
    let run = 0
    let weight = 1
    let left = 0
    let group = 0
    let table = tables[0] as HuffmanTable
    for (;;) {
      if (left === 0) {
        if (group === selectors || bits.exhausted) {
          corrupt()
        }
        table = tables[this.#selectors[group++] as number] as HuffmanTable
        left = groupSymbols
      }
      left--
      const symbol = table.decode(bits)
      if (symbol <= 1) {
        // A digit of the length of a run, in a number system with the digits 1 and 2.
        run += weight << symbol
        weight <<= 1
        if (run > blockBytes) {
          corrupt()
        }
        continue
      }
      if (run > 0) {
        if (count + run > blockBytes) {
          corrupt()
        }
        sorted.fill(alphabet[0] as number, count, count + run)
        count += run
        run = 0
        weight = 1
      }
      if (symbol === end) {
        return count
      }
      if (symbol > end || count === blockBytes) {
        corrupt()
      }
      const place = symbol - 1
      const value = alphabet[place] as number
      alphabet.copyWithin(1, 0, place)
      alphabet[0] = value
      sorted[count++] = value
    }
  }

  /** Undoes the sorting and the first run lengths, into `#output`; the number of bytes. */
  #unsort(count: number, start: number, limit: number): number {
    const sorted = this.#sorted
    const places = new Uint32Array(256)
    for (let i = 0; i < count; i++) {
      const value = (sorted[i] as number) & 0xff
      places[value] = (places[value] as number) + 1
    }
    for (let value = 0, sum = 0; value < 256; value++) {
      const n = places[value] as number
      places[value] = sum
      sum += n
    }
    for (let i = 0; i < count; i++) {
      const value = (sorted[i] as number) & 0xff
      const place = places[value] as number
      places[value] = place + 1
      sorted[place] = (sorted[place] as number) | (i << 8)
    }
    let output = this.#output
    let filled = 0
    let last = -1
    let same = 0
    // The first symbol is the one that the start leads to.
    let entry = sorted[start] as number
    for (let i = 0; i < count; i++) {
      entry = sorted[entry >>> 8] as number
      const value = entry & 0xff
      const repeats = same === 4 ? value : 1
      if (filled + repeats > output.length) {
        output = this.#grow(filled, limit, filled + repeats)
      }
      if (same === 4) {
        output.fill(last, filled, filled + repeats)
        same = 0
        last = -1
      } else {
        output[filled] = value
        same = value === last ? same + 1 : 1
        last = value
      }
      filled += repeats
    }
    if (filled > limit) {
      corrupt()
    }
    return filled
  }

  #grow(filled: number, limit: number, needed: number): Uint8Array {
    if (needed > limit) {
      corrupt()
    }
    // In few steps: what was too small stays in memory for a while.
    const grown = new Uint8Array(Math.max(needed, Math.min(limit, this.#output.length * 8)))
    grown.set(this.#output.subarray(0, filled))
    this.#output = grown
    return grown
  }
}

function blockCrc(data: Uint8Array): number {
  let crc = 0xffff_ffff
  for (let i = 0; i < data.length; i++) {
    crc = (crc << 8) ^ (crcTable[(crc >>> 24) ^ (data[i] as number)] as number)
  }
  return ~crc >>> 0
}

/** The bytes that occur, in order. */
function readAlphabet(bits: BitReader): Uint8Array {
  const alphabet: number[] = []
  const ranges = bits.read(16)
  for (let range = 0; range < 16; range++) {
    if (((ranges >> (15 - range)) & 1) !== 0) {
      const used = bits.read(16)
      for (let i = 0; i < 16; i++) {
        if (((used >> (15 - i)) & 1) !== 0) {
          alphabet.push(range * 16 + i)
        }
      }
    }
  }
  return Uint8Array.from(alphabet)
}

function readTable(bits: BitReader, symbols: number): HuffmanTable {
  const lengths = new Uint8Array(symbols)
  let length = bits.read(5)
  for (let symbol = 0; symbol < symbols; symbol++) {
    for (;;) {
      if (length < 1 || length > 20) {
        corrupt()
      }
      if (bits.read(1) === 0) {
        break
      }
      length += bits.read(1) === 0 ? 1 : -1
    }
    lengths[symbol] = length
  }
  return new HuffmanTable(lengths)
}

/**
 * Decodes a whole bzip2 stream.
 *
 * @throws BlockError EIO unless it is sound and holds exactly `output.length` bytes; what follows it does not matter
 */
export async function decodeBzip2(input: Uint8Array, output: Uint8Array): Promise<void> {
  const blockBytes = Bzip2Decoder.blockBytes(input)
  if (blockBytes === undefined) {
    throw ioError('EIO')
  }
  const decoder = new Bzip2Decoder()
  const slice = new TimeSlice()
  let filled = 0
  let all = 0
  for (let position = 32; ; ) {
    const part = decoder.decode(input, position, blockBytes, output.length - filled)
    if (part.kind === 'end') {
      if (filled !== output.length || part.crc !== all) {
        throw ioError('EIO')
      }
      return
    }
    output.set(part.data, filled)
    filled += part.data.length
    all = joinCrc(all, part.crc)
    position = part.next
    await slice.breathe()
  }
}

/** The checksum of a stream from that of the blocks so far and the next block's. */
export function joinCrc(all: number, block: number): number {
  return (((all << 1) | (all >>> 31)) ^ block) >>> 0
}
