import { ioError } from '../../../errors/index.js'
import { type ChunkDecoder, DecodedChunks } from '../../../formatkit/index.js'
import type { BlockNode } from '../../../graph/index.js'
import type { Codec, Host } from '../../../host/index.js'
import type { Maybe, Wait } from '../../../sched/index.js'
import { compressedEnd, compressedEntry, compressedPlace } from './entry.js'
import type { QcowTables } from './tables.js'

/** Clusters of one request compressed at the same time. */
const compressedAtOnce = 4

/** Reads and writes compressed clusters: raw deflate, at any byte of the file. */
export class CompressedClusters {
  readonly #host: Host
  readonly #node: BlockNode
  readonly #tables: QcowTables
  readonly #clusterBits: number
  readonly #encrypted: boolean
  /** Settles when the request before is stored, or has failed. Never rejects. */
  #lastStored: Promise<void> = Promise.resolve()
  #codec: Codec | undefined
  #decoded: DecodedChunks

  constructor(host: Host, node: BlockNode, tables: QcowTables, encrypted: boolean) {
    this.#host = host
    this.#node = node
    this.#tables = tables
    this.#clusterBits = Math.log2(tables.clusterSize)
    this.#encrypted = encrypted
    this.#decoded = new DecodedChunks(this.#decoder())
  }

  /** Compressed data is gone, and its place may get other contents. */
  invalidate(): void {
    this.#decoded = new DecodedChunks(this.#decoder())
  }

  #decoder(): ChunkDecoder {
    const { clusterSize } = this.#tables
    return {
      size: () => clusterSize,
      cost: () => clusterSize,
      decode: (cookie, output) => this.#decode(cookie, output),
    }
  }

  async #decode(cookie: number, output: Uint8Array): Promise<void> {
    const { node } = this.#tables.file
    const place = compressedPlace(cookie, this.#clusterBits)
    const bytes = Math.min(place.bytes, node.length - place.offset)
    if (!(bytes > 0)) {
      throw ioError('EIO', { node: node.nodeName, operation: 'read', offset: place.offset })
    }
    const input = new Uint8Array(bytes)
    const wait = node.read(place.offset, bytes, input, 0, 0)
    if (wait !== undefined) {
      await wait
    }
    const codec = await this.#load()
    await codec.decompressAsync(input, output)
  }

  #load(): Maybe<Codec> {
    return this.#codec ?? this.#loadSlow()
  }

  async #loadSlow(): Promise<Codec> {
    this.#codec = await this.#host.codecs.deflate()
    return this.#codec
  }

  /** Fills the buffer with what stands `from` bytes behind the start of a cluster. */
  read(cookie: number, from: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#decoded.read(cookie, from, bytes, buffer, bufferOffset)
  }

  /** See MapPath.writeCompressed. */
  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const { clusterSize } = this.#tables
    const where = { node: this.#node.nodeName, operation: 'write', offset, bytes }
    if (this.#encrypted) {
      // What is compressed is not enciphered in this format.
      throw ioError('ENOTSUP', where)
    }
    if (offset % clusterSize !== 0 || (bytes % clusterSize !== 0 && offset + bytes !== this.#node.length)) {
      throw ioError('EINVAL', where)
    }
    return bytes === 0 ? undefined : this.#write(offset, bytes, buffer, bufferOffset)
  }

  /** Requests are compressed side by side, but stored in the order they came: the same input gives the same image. */
  async #write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    const before = this.#lastStored
    let stored: () => void = () => undefined
    this.#lastStored = new Promise<void>((resolve) => {
      stored = resolve
    })
    try {
      await this.#compressAndStore(offset, bytes, buffer, bufferOffset, before)
    } finally {
      await before
      stored()
    }
  }

  async #compressAndStore(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    before: Promise<void>,
  ): Promise<void> {
    const { clusterSize } = this.#tables
    const codec = await this.#load()
    for (let done = 0; done < bytes; done += compressedAtOnce * clusterSize) {
      const pieces: Uint8Array[] = []
      for (let at = done; at < Math.min(bytes, done + compressedAtOnce * clusterSize); at += clusterSize) {
        pieces.push(buffer.subarray(bufferOffset + at, bufferOffset + Math.min(bytes, at + clusterSize)))
      }
      const results = await Promise.all(
        pieces.map((piece) => codec.compress(padded(piece, clusterSize), clusterSize - 1)),
      )
      await before
      for (const [i, piece] of pieces.entries()) {
        await this.#store(offset + done + i * clusterSize, piece, results[i])
      }
    }
  }

  /** Stores one cluster, compressed if that makes it smaller and it can be found where it goes. */
  async #store(offset: number, data: Uint8Array, compressed: Uint8Array | undefined): Promise<void> {
    if (compressed !== undefined && (await this.#storeCompressed(offset, compressed))) {
      return
    }
    const wait = this.#node.writeMapped(offset, data.length, data, 0, 0)
    if (wait !== undefined) {
      await wait
    }
  }

  async #storeCompressed(offset: number, compressed: Uint8Array): Promise<boolean> {
    const { clusterSize, file, mutex, l2, space } = this.#tables
    const { allocations } = this.#node
    const range = await allocations.lock(offset, offset + clusterSize)
    try {
      const place = await mutex.run(async () => {
        l2.release(await this.#tables.makeWritable(offset))
        if (space.end + compressed.length > compressedEnd(clusterSize)) {
          return undefined
        }
        space.checkRoom(compressed.length)
        return space.takeBytes(compressed.length)
      })
      if (place === undefined) {
        return false
      }
      const wait = file.node.write(place, compressed.length, compressed, 0, 0)
      if (wait !== undefined) {
        await wait
      }
      await mutex.run(() => this.#link(offset, place, compressed.length))
      return true
    } finally {
      allocations.release(range)
    }
  }

  async #link(offset: number, place: number, bytes: number): Promise<void> {
    const table = await this.#tables.makeWritable(offset)
    try {
      const { high, low } = compressedEntry(place, bytes, this.#clusterBits)
      this.#tables.set(table, this.#tables.indexOf(offset), high, low)
    } finally {
      this.#tables.l2.release(table)
    }
  }
}

/** One cluster of input; the end of a disk is padded with zeroes. */
function padded(data: Uint8Array, clusterSize: number): Uint8Array {
  if (data.length === clusterSize) {
    return data
  }
  const whole = new Uint8Array(clusterSize)
  whole.set(data)
  return whole
}
