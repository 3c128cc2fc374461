import { readU16LE, readU32LE } from '../../bytes/index.js'
import { ioError } from '../../errors/index.js'
import { BackwardBits, FseTable } from './fse.js'
import { decodeLzvn } from './lzvn.js'

const endMagic = 0x2478_7662
const storedMagic = 0x2d78_7662
const plainMagic = 0x3178_7662
const packedMagic = 0x3278_7662
const lzvnMagic = 0x6e78_7662

const maxLiterals = 40_000
const maxMatches = 10_000
const literalStates = 1024
const lengthStates = 64
const distanceStates = 256

/** Frequencies in the order they are stored: literal lengths, match lengths, distances, literals. */
const frequencyCounts = [20, 20, 64, 256] as const
const plainHeaderBytes = 52 + 2 * (20 + 20 + 64 + 256)
const packedHeaderBytes = 32

function corrupt(): never {
  throw ioError('EIO')
}

/** Values that begin where those of the symbol before, with its further bits, end. */
function bases(extra: Uint8Array): Int32Array {
  const base = new Int32Array(extra.length)
  for (let i = 1; i < extra.length; i++) {
    base[i] = (base[i - 1] as number) + (1 << (extra[i - 1] as number))
  }
  return base
}

const literalLengthExtra = Uint8Array.from([...new Uint8Array(16), 2, 3, 5, 8])
const matchLengthExtra = Uint8Array.from([...new Uint8Array(16), 3, 5, 8, 11])
const distanceExtra = Uint8Array.from({ length: 64 }, (_, i) => i >> 2)
const literalLengthBase = bases(literalLengthExtra)
const matchLengthBase = bases(matchLengthExtra)
const distanceBase = bases(distanceExtra)

/** A compressed block's header, however it was stored. */
interface BlockHeader {
  readonly headerBytes: number
  readonly outputBytes: number
  readonly literals: number
  readonly matches: number
  readonly literalBytes: number
  readonly matchBytes: number
  readonly literalSlack: number
  readonly matchSlack: number
  readonly literalState: readonly number[]
  readonly lengthState: number
  readonly matchState: number
  readonly distanceState: number
  readonly frequencies: readonly Uint16Array[]
}

function parsePlain(input: Uint8Array, at: number): BlockHeader {
  if (at + plainHeaderBytes > input.length) {
    corrupt()
  }
  // Two bytes of padding come before.
  let from = at + 52
  const frequencies = frequencyCounts.map((count) => {
    const values = Uint16Array.from({ length: count }, (_, i) => readU16LE(input, from + i * 2))
    from += count * 2
    return values
  })
  return {
    headerBytes: plainHeaderBytes,
    outputBytes: readU32LE(input, at + 4),
    literals: readU32LE(input, at + 12),
    matches: readU32LE(input, at + 16),
    literalBytes: readU32LE(input, at + 20),
    matchBytes: readU32LE(input, at + 24),
    literalSlack: readU32LE(input, at + 28) | 0,
    literalState: [32, 34, 36, 38].map((field) => readU16LE(input, at + field)),
    matchSlack: readU32LE(input, at + 40) | 0,
    lengthState: readU16LE(input, at + 44),
    matchState: readU16LE(input, at + 46),
    distanceState: readU16LE(input, at + 48),
    frequencies,
  }
}

/** `count` bits (up to 32) from bit `bit` on of a little-endian number. */
function field(input: Uint8Array, at: number, bit: number, count: number): number {
  let value = 0
  for (let i = 0; i < count; i++) {
    const place = bit + i
    value += (((input[at + (place >> 3)] as number) >> (place & 7)) & 1) * 2 ** i
  }
  return value
}

function parsePacked(input: Uint8Array, at: number): BlockHeader {
  if (at + packedHeaderBytes > input.length) {
    corrupt()
  }
  const headerBytes = field(input, at + 24, 0, 32)
  if (headerBytes < packedHeaderBytes || at + headerBytes > input.length) {
    corrupt()
  }
  return {
    headerBytes,
    outputBytes: readU32LE(input, at + 4),
    literals: field(input, at + 8, 0, 20),
    literalBytes: field(input, at + 8, 20, 20),
    matches: field(input, at + 8, 40, 20),
    literalSlack: field(input, at + 8, 60, 3) - 7,
    literalState: [0, 10, 20, 30].map((bit) => field(input, at + 16, bit, 10)),
    matchBytes: field(input, at + 16, 40, 20),
    matchSlack: field(input, at + 16, 60, 3) - 7,
    lengthState: field(input, at + 24, 32, 10),
    matchState: field(input, at + 24, 42, 10),
    distanceState: field(input, at + 24, 52, 10),
    frequencies: unpackFrequencies(input, at + packedHeaderBytes, at + headerBytes),
  }
}

/** Bits of the short codes for a frequency, by their lowest five bits; 8 and 14 have a number behind them. */
const codeBits = [2, 3, 2, 5, 2, 3, 2, 8, 2, 3, 2, 5, 2, 3, 2, 14]
const codeValues = [
  0, 2, 1, 4, 0, 3, 1, 0, 0, 2, 1, 5, 0, 3, 1, 0, 0, 2, 1, 6, 0, 3, 1, 0, 0, 2, 1, 7, 0, 3, 1, 0,
]

function unpackFrequencies(input: Uint8Array, from: number, to: number): readonly Uint16Array[] {
  const all = frequencyCounts.map((count) => new Uint16Array(count))
  if (from === to) {
    return all
  }
  let at = from
  let held = 0
  let bits = 0
  for (const values of all) {
    for (let i = 0; i < values.length; i++) {
      while (bits <= 16 && at < to) {
        held |= (input[at++] as number) << bits
        bits += 8
      }
      const code = held & 31
      const length = codeBits[code & 15] as number
      if (length > bits) {
        corrupt()
      }
      values[i] =
        length === 8
          ? 8 + ((held >> 4) & 15)
          : length === 14
            ? 24 + ((held >> 4) & 1023)
            : (codeValues[code] as number)
      held >>>= length
      bits -= length
    }
  }
  if (bits >= 8 || at !== to) {
    corrupt()
  }
  return all
}

function checkHeader(header: BlockHeader): void {
  if (
    header.literals > maxLiterals ||
    header.literals % 4 !== 0 ||
    header.matches > maxMatches ||
    header.literalState.some((state) => state >= literalStates) ||
    header.lengthState >= lengthStates ||
    header.matchState >= lengthStates ||
    header.distanceState >= distanceStates
  ) {
    corrupt()
  }
}

/** Decodes LZFSE streams. One object serves many; it holds the literals of a block. */
class LzfseDecoder {
  readonly #literals = new Uint8Array(maxLiterals)

  /** Decodes a compressed block's payload at `at` into `out` at `position`; where the output ends. */
  block(input: Uint8Array, at: number, header: BlockHeader, out: Uint8Array, position: number): number {
    checkHeader(header)
    const [lengthFrequencies, matchFrequencies, distanceFrequencies, literalFrequencies] =
      header.frequencies as [Uint16Array, Uint16Array, Uint16Array, Uint16Array]
    const matchesAt = at + header.literalBytes
    const end = matchesAt + header.matchBytes
    if (end > input.length || header.outputBytes > out.length - position) {
      corrupt()
    }
    this.#decodeLiterals(
      new BackwardBits(input, at, matchesAt, header.literalSlack),
      new FseTable(literalStates, literalFrequencies),
      header,
    )
    const lengths = new FseTable(lengthStates, lengthFrequencies, literalLengthExtra, literalLengthBase)
    const matches = new FseTable(lengthStates, matchFrequencies, matchLengthExtra, matchLengthBase)
    const distances = new FseTable(distanceStates, distanceFrequencies, distanceExtra, distanceBase)
    lengths.state = header.lengthState
    matches.state = header.matchState
    distances.state = header.distanceState
    const bits = new BackwardBits(input, matchesAt, end, header.matchSlack)
    return this.#copy(bits, lengths, matches, distances, header, out, position)
  }

  /** Four decoders take turns. */
  #decodeLiterals(bits: BackwardBits, table: FseTable, header: BlockHeader): void {
    let [a = 0, b = 0, c = 0, d = 0] = header.literalState
    const literals = this.#literals
    for (let i = 0; i < header.literals; i += 4) {
      literals[i] = table.symbol(a)
      a = table.next(a, bits)
      literals[i + 1] = table.symbol(b)
      b = table.next(b, bits)
      literals[i + 2] = table.symbol(c)
      c = table.next(c, bits)
      literals[i + 3] = table.symbol(d)
      d = table.next(d, bits)
    }
  }

  #copy(
    bits: BackwardBits,
    lengths: FseTable,
    matches: FseTable,
    distances: FseTable,
    header: BlockHeader,
    out: Uint8Array,
    start: number,
  ): number {
    const end = start + header.outputBytes
    let position = start
    let used = 0
    let distance = 0
    for (let i = 0; i < header.matches; i++) {
      const literals = lengths.decode(bits)
      const length = matches.decode(bits)
      const next = distances.decode(bits)
      distance = next === 0 ? distance : next
      if (
        used + literals > header.literals ||
        literals + length > end - position ||
        (length > 0 && (distance === 0 || distance > position + literals))
      ) {
        corrupt()
      }
      out.set(this.#literals.subarray(used, used + literals), position)
      used += literals
      position += literals
      for (const stop = position + length; position < stop; position++) {
        out[position] = out[position - distance] as number
      }
    }
    if (position !== end) {
      corrupt()
    }
    return position
  }
}

/**
 * Decodes a whole LZFSE stream.
 *
 * @throws BlockError EIO unless it is sound and holds exactly `output.length` bytes; what follows it does not matter
 */
export function decodeLzfse(input: Uint8Array, output: Uint8Array): void {
  const decoder = new LzfseDecoder()
  let at = 0
  let filled = 0
  while (at + 4 <= input.length) {
    const magic = readU32LE(input, at)
    if (magic === endMagic) {
      if (filled !== output.length) {
        corrupt()
      }
      return
    }
    if (magic === plainMagic || magic === packedMagic) {
      const header = magic === plainMagic ? parsePlain(input, at) : parsePacked(input, at)
      filled = decoder.block(input, at + header.headerBytes, header, output, filled)
      at += header.headerBytes + header.literalBytes + header.matchBytes
      continue
    }
    if (at + 12 > input.length || (magic !== storedMagic && magic !== lzvnMagic)) {
      corrupt()
    }
    const bytes = readU32LE(input, at + 4)
    if (bytes > output.length - filled) {
      corrupt()
    }
    if (magic === storedMagic) {
      if (at + 8 + bytes > input.length) {
        corrupt()
      }
      output.set(input.subarray(at + 8, at + 8 + bytes), filled)
      at += 8 + bytes
    } else {
      const end = at + 12 + readU32LE(input, at + 8)
      if (end > input.length) {
        corrupt()
      }
      decodeLzvn(input, at + 12, end, output, filled, filled + bytes)
      at = end
    }
    filled += bytes
  }
  corrupt()
}
