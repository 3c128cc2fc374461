import { ioError } from '../../../errors/index.js'
import { DecodedChunks } from '../../../formatkit/index.js'
import type { DmgChunkKind, DriverState, FormatDetails } from '../../../graph/index.js'
import type { HostCodecs } from '../../../host/index.js'
import type { BlockLimits, ExtentSink, IoNode, MapPath } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { type ChunkTable, ChunkType } from './chunk-table.js'
import { decodeChunk } from './decode.js'

const sectorBytes = 512
/** Cookie of a range that no chunk holds. */
const nowhere = -1

const chunkKinds = ['zero', 'raw', 'ignore', 'adc', 'zlib', 'bzip2', 'lzfse', 'lzma'] as const

/** An open image. */
export class DmgState implements DriverState, MapPath {
  readonly map: MapPath = this
  readonly length: number
  readonly #file: IoNode
  readonly #table: ChunkTable
  readonly #chunks: DecodedChunks
  /** The chunk found last: most requests go on where the one before ended. */
  #last = 0

  constructor(file: IoNode, codecs: HostCodecs, table: ChunkTable, sectors: number) {
    this.#file = file
    this.#table = table
    this.length = sectors * sectorBytes
    this.#chunks = new DecodedChunks({
      size: (chunk) => (table.counts[chunk] as number) * sectorBytes,
      // The stored chunk, and what a codec gives before it is copied.
      cost: (chunk) => (table.lengths[chunk] as number) + (table.counts[chunk] as number) * sectorBytes,
      decode: (chunk, output) =>
        decodeChunk(
          file,
          codecs,
          table.types[chunk] as number,
          table.offsets[chunk] as number,
          table.lengths[chunk] as number,
          output,
        ),
    })
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = sectorBytes
  }

  details(): FormatDetails {
    const { types } = this.#table
    const seen: { [K in `${DmgChunkKind}-chunks`]?: number } = {}
    for (const type of types) {
      const kind = chunkKinds.find((name) => ChunkType[name] === type) ?? 'unknown'
      seen[`${kind}-chunks`] = (seen[`${kind}-chunks`] ?? 0) + 1
    }
    return { type: 'dmg', data: { chunks: types.length, ...seen } }
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const end = offset + bytes
    for (let at = offset; at < end; ) {
      const sector = at / sectorBytes
      const chunk = this.#find(sector)
      const next =
        chunk < 0
          ? this.#table.nextStart(sector)
          : (this.#table.sectors[chunk] as number) + (this.#table.counts[chunk] as number)
      const run = Math.min(end, next * sectorBytes) - at
      const more = chunk < 0 ? out.encoded(run, nowhere) : this.#report(chunk, at, run, out)
      if (!more) {
        break
      }
      at += run
    }
    return undefined
  }

  #find(sector: number): number {
    const { sectors, counts } = this.#table
    for (let chunk = this.#last; chunk < this.#last + 2 && chunk < sectors.length; chunk++) {
      const start = sectors[chunk] as number
      if (start <= sector && sector < start + (counts[chunk] as number)) {
        this.#last = chunk
        return chunk
      }
    }
    const chunk = this.#table.find(sector)
    if (chunk >= 0) {
      this.#last = chunk
    }
    return chunk
  }

  #report(chunk: number, at: number, bytes: number, out: ExtentSink): boolean {
    const table = this.#table
    switch (table.types[chunk]) {
      case ChunkType.zero:
      case ChunkType.ignore:
        return out.zero(bytes)
      case ChunkType.raw:
        break
      default:
        return out.encoded(bytes, chunk)
    }
    // Stored as it is, perhaps with a part of it only: zeroes follow.
    const from = at - (table.sectors[chunk] as number) * sectorBytes
    const length = table.lengths[chunk] as number
    const whole = Math.floor(length / sectorBytes) * sectorBytes
    const present = Math.max(0, Math.min(bytes, whole - from))
    if (present > 0 && !out.data(present, this.#file, (table.offsets[chunk] as number) + from, 0)) {
      return false
    }
    const partial = present < bytes && from + present === whole && length > whole ? sectorBytes : 0
    if (partial > 0 && !out.encoded(partial, chunk)) {
      return false
    }
    const rest = bytes - present - partial
    return rest === 0 || out.zero(rest)
  }

  readEncoded(chunk: number, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    if (chunk === nowhere) {
      throw ioError('EIO', { node: this.#file.nodeName, operation: 'read', offset, bytes })
    }
    const from = offset - (this.#table.sectors[chunk] as number) * sectorBytes
    if (this.#table.types[chunk] === ChunkType.raw) {
      const present = Math.min(bytes, (this.#table.lengths[chunk] as number) - from)
      buffer.fill(0, bufferOffset + present, bufferOffset + bytes)
      return this.#file.read((this.#table.offsets[chunk] as number) + from, present, buffer, bufferOffset, 0)
    }
    return this.#chunks.read(chunk, from, bytes, buffer, bufferOffset)
  }

  close(): Wait {
    return undefined
  }
}
