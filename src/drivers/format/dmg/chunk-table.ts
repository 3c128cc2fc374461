import { readU32BE, readU64BE } from '../../../bytes/index.js'
import { blockError, ioError } from '../../../errors/index.js'

/** Kinds of chunks, as they stand in the file. */
export const ChunkType = {
  zero: 0,
  raw: 1,
  ignore: 2,
  adc: 0x8000_0004,
  zlib: 0x8000_0005,
  bzip2: 0x8000_0006,
  lzfse: 0x8000_0007,
  lzma: 0x8000_0008,
  comment: 0x7fff_fffe,
  end: 0xffff_ffff,
} as const

/** The most that a chunk with contents may take, stored or decoded. */
const maxChunkBytes = 64 << 20
const maxChunkSectors = maxChunkBytes / 512
/** Chunks of all blocks together: 512 GiB with the smallest that are in use, and a bound of memory (56 MiB). */
const maxChunks = 1 << 21

const mishMagic = 0x6d69_7368
const mishHeaderBytes = 204
const entryBytes = 40

const known: ReadonlySet<number> = new Set([
  ChunkType.zero,
  ChunkType.raw,
  ChunkType.ignore,
  ChunkType.adc,
  ChunkType.zlib,
  ChunkType.bzip2,
  ChunkType.lzfse,
  ChunkType.lzma,
])

function u64Text(bytes: Uint8Array, at: number): string {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getBigUint64(at).toString()
}

/** Collects the chunks of an image in the order they are listed. */
export class ChunkTableBuilder {
  readonly #dataForkOffset: number
  readonly #warn: (line: string) => void
  #count = 0
  #types = new Uint32Array(1024)
  #sectors = new Float64Array(1024)
  #counts = new Float64Array(1024)
  #offsets = new Float64Array(1024)
  #lengths = new Uint32Array(1024)
  #warned = false

  /** `warn` gets lines for the user. */
  constructor(dataForkOffset: number, warn: (line: string) => void) {
    this.#dataForkOffset = dataForkOffset
    this.#warn = warn
  }

  /**
   * Takes up the chunks of one block list (`mish`); other resources are passed over.
   *
   * @throws BlockError EINVAL, after telling the user, for a chunk larger than can be
   */
  add(mish: Uint8Array): void {
    if (mish.length < mishHeaderBytes + entryBytes || readU32BE(mish, 0) !== mishMagic) {
      return
    }
    const firstSector = readU64BE(mish, 8)
    const dataOffset = this.#dataForkOffset + readU64BE(mish, 0x18)
    const entries = Math.floor((mish.length - mishHeaderBytes) / entryBytes)
    for (let i = 0; i < entries; i++) {
      const at = mishHeaderBytes + i * entryBytes
      const type = readU32BE(mish, at)
      if (!known.has(type)) {
        this.#warnOf(type)
        continue
      }
      const sectors = readU64BE(mish, at + 0x10)
      if (type !== ChunkType.zero && type !== ChunkType.ignore && sectors > maxChunkSectors) {
        this.#tooLarge('sector count', u64Text(mish, at + 0x10), maxChunkSectors)
      }
      const length = readU64BE(mish, at + 0x20)
      if (length > maxChunkBytes) {
        this.#tooLarge('length', u64Text(mish, at + 0x20), maxChunkBytes)
      }
      this.#push(
        type,
        firstSector + readU64BE(mish, at + 8),
        sectors,
        dataOffset + readU64BE(mish, at + 0x18),
        length,
      )
    }
  }

  #tooLarge(what: string, value: string, max: number): never {
    this.#warn(`${what} ${value} for chunk ${this.#count} is larger than max (${max})`)
    throw ioError('EINVAL')
  }

  #warnOf(type: number): void {
    if (type !== ChunkType.comment && type !== ChunkType.end && !this.#warned) {
      this.#warned = true
      this.#warn(
        `warning: Image contains chunks of unknown type ${type.toString(16)}, ` +
          'accessing them will result in I/O errors',
      )
    }
  }

  #push(type: number, sector: number, sectors: number, offset: number, length: number): void {
    const index = this.#count
    if (index === this.#types.length) {
      this.#grow()
    }
    this.#types[index] = type
    this.#sectors[index] = sector
    this.#counts[index] = sectors
    this.#offsets[index] = offset
    this.#lengths[index] = length
    this.#count++
  }

  #grow(): void {
    const size = this.#types.length * 2
    if (size > maxChunks) {
      throw blockError('EFBIG', `Image has more than ${maxChunks} chunks`)
    }
    const grown = <T extends Uint32Array | Float64Array>(from: T, into: T): T => {
      into.set(from)
      return into
    }
    this.#types = grown(this.#types, new Uint32Array(size))
    this.#sectors = grown(this.#sectors, new Float64Array(size))
    this.#counts = grown(this.#counts, new Float64Array(size))
    this.#offsets = grown(this.#offsets, new Float64Array(size))
    this.#lengths = grown(this.#lengths, new Uint32Array(size))
  }

  build(): ChunkTable {
    const order = this.#order()
    const pick = <T extends Uint32Array | Float64Array>(from: T, into: T): T => {
      for (let i = 0; i < order.length; i++) {
        into[i] = from[order[i] as number] as number
      }
      return into
    }
    const n = order.length
    return new ChunkTable(
      pick(this.#types, new Uint32Array(n)),
      pick(this.#sectors, new Float64Array(n)),
      pick(this.#counts, new Float64Array(n)),
      pick(this.#offsets, new Float64Array(n)),
      pick(this.#lengths, new Uint32Array(n)),
    )
  }

  /**
   * Chunks by their place on the disk. Where chunks overlap, which no sound image has, they stay as they
   * are listed, and reads find what QEMU's search finds.
   */
  #order(): Uint32Array {
    const listed = Uint32Array.from({ length: this.#count }, (_, i) => i)
    const sectors = this.#sectors
    if (listed.every((i) => i === 0 || (sectors[i] as number) >= (sectors[i - 1] as number))) {
      return listed
    }
    const sorted = listed.slice().sort((a, b) => (sectors[a] as number) - (sectors[b] as number) || a - b)
    let end = 0
    for (const index of sorted) {
      if ((sectors[index] as number) < end) {
        return listed
      }
      end = (sectors[index] as number) + (this.#counts[index] as number)
    }
    return sorted
  }
}

/** The chunks of an image. Sectors are the guest's, offsets and lengths bytes in the file. */
export class ChunkTable {
  readonly types: Uint32Array
  readonly sectors: Float64Array
  readonly counts: Float64Array
  readonly offsets: Float64Array
  readonly lengths: Uint32Array
  #starts: Float64Array | undefined

  constructor(
    types: Uint32Array,
    sectors: Float64Array,
    counts: Float64Array,
    offsets: Float64Array,
    lengths: Uint32Array,
  ) {
    this.types = types
    this.sectors = sectors
    this.counts = counts
    this.offsets = offsets
    this.lengths = lengths
  }

  /** The chunk that holds a guest sector; -1 if none does. */
  find(sector: number): number {
    let low = 0
    let high = this.types.length - 1
    while (low <= high) {
      const middle = (low + high) >>> 1
      const start = this.sectors[middle] as number
      if (start > sector) {
        high = middle - 1
      } else if (start + (this.counts[middle] as number) > sector) {
        return middle
      } else {
        low = middle + 1
      }
    }
    return -1
  }

  /** Where the next chunk after a sector that none holds starts; `Infinity` if there is none. */
  nextStart(sector: number): number {
    this.#starts ??= this.sectors.slice().sort()
    let low = 0
    let high = this.#starts.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#starts[middle] as number) > sector) {
        high = middle
      } else {
        low = middle + 1
      }
    }
    return this.#starts[low] ?? Number.POSITIVE_INFINITY
  }
}
