import { writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import type { StreamContext } from '../../../graph/index.js'
import type { Codec } from '../../../host/index.js'
import { isZero } from '../../../io/index.js'
import { describeStream, type Options } from './create.js'
import { packGrain } from './grain-codec.js'
import { Flag, Marker, sectorBytes, sparseHeaderBytes } from './sparse-header.js'

const grainSectors = 128
const grainBytes = grainSectors * sectorBytes
/** Grains of one table. */
const tableEntries = 512
const tableSectors = (tableEntries * 4) / sectorBytes
const descriptorSectors = 20
/** Header and descriptor, in whole grains. Sectors. */
const overhead = grainSectors
/** The directory's place in a header whose footer tells it. */
const atEnd = 2 ** 64
/** Grains compressed at the same time. */
const atOnce = 8
/** Largest disk: grains are named by 32-bit sectors. */
const maxSectors = 2 ** 32

/**
 * Writes a stream-optimized image as the specification of virtual disk formats 5.0 lays it out for streams:
 * header, descriptor, the grains with data, each table behind its grains, the directory, the footer, which
 * alone knows where that is, and the end-of-stream marker. Nothing is read back, and what is kept is the
 * directory: 4 bytes for each 32 MiB of disk.
 */
export function stream(context: StreamContext): Promise<void> | undefined {
  const options: Options = context.options
  return options.subformat === 'streamOptimized' ? new GrainStream(context, options).run() : undefined
}

class GrainStream {
  readonly #context: StreamContext
  readonly #options: Options
  readonly #capacity: number
  /** Where the next thing goes, sectors. */
  #at = 0
  /** Sectors of tables, 0 for none. */
  readonly #directory: Uint32Array
  #table = new Uint8Array(tableEntries * 4)
  #tableNumber = 0
  #tableUsed = false

  constructor(context: StreamContext, options: Options) {
    this.#context = context
    this.#options = options
    this.#capacity = Math.ceil(context.length / sectorBytes)
    if (this.#capacity > maxSectors) {
      throw blockError('EFBIG', `Image of ${context.length} bytes is too large for this subformat`)
    }
    if (options.backing_file !== undefined) {
      throw blockError('ENOTSUP', 'An image with a backing file cannot be written as a stream')
    }
    this.#directory = new Uint32Array(Math.ceil(this.#capacity / (grainSectors * tableEntries)))
  }

  async run(): Promise<void> {
    const { host, name } = this.#context
    const text = describeStream(host, this.#options, this.#capacity * sectorBytes, name)
    const descriptor = new TextEncoder().encode(text)
    if (descriptor.length > descriptorSectors * sectorBytes) {
      throw blockError('EINVAL', 'Descriptor of the image is too long')
    }
    const front = new Uint8Array(overhead * sectorBytes)
    front.set(this.#header(atEnd))
    front.set(descriptor, sectorBytes)
    await this.#put(front)
    await this.#grains(await host.codecs.deflate())
    await this.#endTable(this.#directory.length)
    const directory = new Uint8Array(
      Math.max(1, Math.ceil((this.#directory.length * 4) / sectorBytes)) * sectorBytes,
    )
    for (const [index, place] of this.#directory.entries()) {
      writeU32LE(directory, index * 4, place)
    }
    const place = await this.#putMarked(Marker.grainDirectory, directory)
    await this.#putMarked(Marker.footer, this.#header(place))
    await this.#put(new Uint8Array(sectorBytes))
  }

  #header(directoryOffset: number): Uint8Array {
    const bytes = sparseHeaderBytes({
      version: 3,
      flags: Flag.newlines | Flag.compressed | Flag.marker,
      capacity: this.#capacity,
      grain: grainSectors,
      descriptorOffset: 1,
      descriptorSize: descriptorSectors,
      tableEntries,
      redundantOffset: 0,
      directoryOffset: directoryOffset === atEnd ? 0 : directoryOffset,
      overhead,
      compression: 1,
    })
    if (directoryOffset === atEnd) {
      bytes.fill(0xff, 56, 64)
    }
    return bytes
  }

  async #put(bytes: Uint8Array): Promise<void> {
    this.#at += bytes.length / sectorBytes
    const wait = this.#context.write(bytes)
    if (wait !== undefined) {
      await wait
    }
  }

  /** Writes metadata behind a marker that names it; the result is its sector. */
  async #putMarked(type: number, metadata: Uint8Array): Promise<number> {
    const bytes = new Uint8Array(sectorBytes + metadata.length)
    writeU64LE(bytes, 0, metadata.length / sectorBytes)
    writeU32LE(bytes, 12, type)
    bytes.set(metadata, sectorBytes)
    const place = this.#at + 1
    await this.#put(bytes)
    return place
  }

  /** Compresses the grains with data, some at a time, and writes them in order. */
  async #grains(codec: Codec): Promise<void> {
    const { length, progress } = this.#context
    const waiting: { readonly grain: number; readonly packed: Promise<Uint8Array | undefined> }[] = []
    const next = async (): Promise<void> => {
      const first = waiting.shift()
      const packed = await first?.packed
      if (first !== undefined && packed !== undefined) {
        await this.#putGrain(first.grain, packed)
      }
    }
    try {
      for (let offset = 0; offset < length; ) {
        progress(offset)
        const run = await this.#context.ask(offset)
        const end = Math.min(length, offset + run.bytes)
        if (run.zero) {
          // A grain that is only begun may still hold data.
          const whole = end === length ? end : end - (end % grainBytes)
          if (offset % grainBytes === 0 && whole > offset) {
            offset = whole
            continue
          }
        }
        const start = offset - (offset % grainBytes)
        const stop = Math.min(length, start + grainBytes)
        const data = new Uint8Array(grainBytes)
        await this.#context.read(start, stop - start, data, 0)
        waiting.push({ grain: start / grainBytes, packed: packData(codec, start, data) })
        if (waiting.length >= atOnce) {
          await next()
        }
        offset = stop
      }
      while (waiting.length > 0) {
        await next()
      }
      progress(length)
    } finally {
      // What is still being compressed is of no interest any more.
      await Promise.allSettled(waiting.map(({ packed }) => packed))
    }
  }

  async #putGrain(grain: number, packed: Uint8Array): Promise<void> {
    await this.#endTable(Math.floor(grain / tableEntries))
    if (this.#at >= maxSectors) {
      throw blockError('EFBIG', 'Image is too large for this subformat')
    }
    writeU32LE(this.#table, (grain % tableEntries) * 4, this.#at)
    this.#tableUsed = true
    await this.#put(packed)
  }

  /** Writes the table that is being made, if the next grain belongs to another one. */
  async #endTable(next: number): Promise<void> {
    if (next !== this.#tableNumber && this.#tableUsed) {
      this.#directory[this.#tableNumber] = await this.#putMarked(Marker.grainTable, this.#table)
      this.#table = new Uint8Array(tableSectors * sectorBytes)
      this.#tableUsed = false
    }
    this.#tableNumber = next
  }
}

/** Undefined: all of it is zero. Behind the end of the disk the last grain is filled up with zeroes. */
async function packData(codec: Codec, offset: number, data: Uint8Array): Promise<Uint8Array | undefined> {
  return isZero(data, 0, data.length) ? undefined : await packGrain(codec, offset / sectorBytes, data)
}
