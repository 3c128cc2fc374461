import { ioError } from '../../../errors/index.js'
import { truncateNode } from '../../../graph/index.js'
import type { Codec } from '../../../host/index.js'
import type { Wait } from '../../../sched/index.js'
import { compressedEntry, compressedPlace } from './compressed-cookie.js'
import { CompressionType } from './constants.js'
import { ClusterType, clusterType } from './l2-entry.js'
import type { L2Tables } from './l2-tables.js'
import type { Qcow2Metadata } from './metadata.js'

interface Decoded {
  readonly cookie: number
  readonly data: Uint8Array
}

/** Decoded clusters kept: enough for a few sequential readers. */
const keptClusters = 4
/** Clusters of one request compressed at the same time. */
const compressedAtOnce = 4

/** Reads and writes compressed clusters. */
export class CompressedClusters {
  readonly #meta: Qcow2Metadata
  readonly #tables: L2Tables
  #codec: Codec | undefined
  /** Most recently used first. */
  readonly #kept: Decoded[] = []
  readonly #decoding = new Map<number, Promise<Uint8Array>>()
  /** Counts invalidations: what was read before one must not be kept after it. */
  #epoch = 0
  /** Settles when the previous compressed cluster has its place: places follow the order of the requests. */
  #previous: Promise<void> = Promise.resolve()

  constructor(meta: Qcow2Metadata, tables: L2Tables) {
    this.#meta = meta
    this.#tables = tables
  }

  /** Compressed clusters were freed: forget decoded ones, whose host space may get new contents. */
  invalidate(): void {
    this.#kept.length = 0
    this.#decoding.clear()
    this.#epoch++
  }

  async #loadCodec(): Promise<Codec> {
    if (this.#codec === undefined) {
      const { codecs } = this.#meta.host
      const zstd = this.#meta.header.compressionType === CompressionType.zstd
      this.#codec = await (zstd ? codecs.zstd() : codecs.deflate())
    }
    return this.#codec
  }

  /** See MapPath.readEncoded. */
  readEncoded(cookie: number, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const { clusterSize } = this.#meta.geometry
    const inCluster = offset % clusterSize
    const kept = this.#find(cookie)
    if (kept !== undefined) {
      copy(kept, inCluster, bytes, buffer, bufferOffset)
      return undefined
    }
    if (bytes === clusterSize) {
      return this.#decodeInto(cookie, buffer.subarray(bufferOffset, bufferOffset + bytes))
    }
    return this.#decodePart(cookie, inCluster, bytes, buffer, bufferOffset)
  }

  #find(cookie: number): Uint8Array | undefined {
    const kept = this.#kept
    for (let i = 0; i < kept.length; i++) {
      const entry = kept[i]
      if (entry?.cookie === cookie) {
        if (i > 0) {
          kept.splice(i, 1)
          kept.unshift(entry)
        }
        return entry.data
      }
    }
    return undefined
  }

  /** The compressed bytes. Throws EIO if they are not in the file. */
  async #readCompressed(cookie: number): Promise<Uint8Array> {
    const { file, geometry } = this.#meta
    const place = compressedPlace(cookie, geometry)
    // The last sector of a file may be incomplete.
    const bytes = Math.min(place.bytes, file.length - place.offset)
    if (!(bytes > 0)) {
      throw ioError('EIO', { node: file.nodeName, operation: 'read', offset: place.offset })
    }
    const input = new Uint8Array(bytes)
    const stop = this.#meta.event('read_compressed')
    if (stop !== undefined) {
      await stop
    }
    const wait = file.read(place.offset, bytes, input, 0, 0)
    if (wait !== undefined) {
      await wait
    }
    return input
  }

  async #decodeInto(cookie: number, output: Uint8Array): Promise<void> {
    const codec = this.#codec ?? (await this.#loadCodec())
    await codec.decompressAsync(await this.#readCompressed(cookie), output)
  }

  async #decodePart(
    cookie: number,
    inCluster: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
  ): Promise<void> {
    let decoding = this.#decoding.get(cookie)
    if (decoding === undefined) {
      decoding = this.#decode(cookie)
      this.#decoding.set(cookie, decoding)
    }
    copy(await decoding, inCluster, bytes, buffer, bufferOffset)
  }

  async #decode(cookie: number): Promise<Uint8Array> {
    const epoch = this.#epoch
    try {
      const codec = this.#codec ?? (await this.#loadCodec())
      const data = new Uint8Array(this.#meta.geometry.clusterSize)
      codec.decompress(await this.#readCompressed(cookie), data)
      if (epoch === this.#epoch) {
        this.#kept.unshift({ cookie, data })
        this.#kept.length = Math.min(this.#kept.length, keptClusters)
      }
      return data
    } finally {
      if (epoch === this.#epoch) {
        this.#decoding.delete(cookie)
      }
    }
  }

  /** See MapPath.writeCompressed. */
  writeCompressed(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const { file, geometry, node } = this.#meta
    if (this.#meta.isExternal) {
      throw ioError('ENOTSUP', { node: node.nodeName, operation: 'write', offset, bytes })
    }
    if (bytes === 0) {
      // The last compressed cluster may end anywhere; uncompressed readers like whole sectors.
      return truncateNode(file, file.length, { exact: false, preallocation: 'off', zero: false })
    }
    const { clusterSize } = geometry
    if (offset % clusterSize !== 0 || (bytes % clusterSize !== 0 && offset + bytes !== node.length)) {
      throw ioError('EINVAL', { node: node.nodeName, operation: 'write', offset, bytes })
    }
    return this.#writeClusters(offset, bytes, buffer, bufferOffset)
  }

  async #writeClusters(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
  ): Promise<void> {
    const { clusterSize } = this.#meta.geometry
    const running = new Set<Promise<void>>()
    let failure: unknown
    for (let done = 0; done < bytes && failure === undefined; done += clusterSize) {
      const chunk = Math.min(clusterSize, bytes - done)
      const task = this.#writeCluster(offset + done, chunk, buffer, bufferOffset + done).catch((error) => {
        failure ??= error
      })
      running.add(task)
      void task.then(() => running.delete(task))
      if (running.size >= compressedAtOnce) {
        await Promise.race(running)
      }
    }
    await Promise.all(running)
    if (failure !== undefined) {
      throw failure
    }
  }

  async #writeCluster(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
  ): Promise<void> {
    const { node, geometry } = this.#meta
    const turn = this.#previous
    let pass: () => void = () => undefined
    this.#previous = new Promise((resolve) => {
      pass = resolve
    })
    try {
      let compressed: Uint8Array | undefined
      try {
        const codec = this.#codec ?? (await this.#loadCodec())
        compressed = await codec.compress(
          wholeCluster(buffer, bufferOffset, bytes, geometry.clusterSize),
          geometry.clusterSize - 1,
        )
      } finally {
        await turn
      }
      if (compressed !== undefined) {
        await this.#place(offset, compressed, pass)
        return
      }
      const wait = node.writeMapped(offset, bytes, buffer, bufferOffset, 0)
      pass()
      if (wait !== undefined) {
        await wait
      }
    } finally {
      pass()
    }
  }

  /** Stores a compressed cluster; calls `placed` when the next one may look for its place. */
  async #place(offset: number, compressed: Uint8Array, placed: () => void): Promise<void> {
    const meta = this.#meta
    const { allocations } = meta.node
    const range = await allocations.lock(offset, offset + meta.geometry.clusterSize)
    try {
      const host = await meta.locked(async () => {
        await this.#checkUnused(offset)
        return await meta.allocator.allocateBytes(compressed.length)
      })
      placed()
      try {
        await meta.event('write_compressed')
        const wait = meta.file.write(host, compressed.length, compressed, 0, 0)
        if (wait !== undefined) {
          await wait
        }
        await meta.locked(() => this.#link(offset, host, compressed.length))
      } catch (error) {
        await meta.locked(() => meta.allocator.free(host, compressed.length, 'never', false))
        throw error
      }
    } finally {
      allocations.release(range)
    }
  }

  /** Compression overwrites nothing. Throws EIO if the cluster has host space. */
  async #checkUnused(offset: number): Promise<void> {
    const slice = await this.#tables.makeWritable(offset)
    this.#meta.l2.release(slice)
    const at = (this.#tables.l2Index(offset) % this.#meta.sliceEntries) * this.#meta.geometry.entryBytes
    const type = clusterType(slice.view.getUint32(at), slice.view.getUint32(at + 4))
    if (type !== ClusterType.unallocated && type !== ClusterType.zeroPlain) {
      throw ioError('EIO', { node: this.#meta.node.nodeName, operation: 'write', offset })
    }
  }

  async #link(offset: number, host: number, bytes: number): Promise<void> {
    const { l2, blocks, sliceEntries, geometry } = this.#meta
    const slice = await this.#tables.makeWritable(offset)
    try {
      const wait = l2.orderAfter(blocks)
      if (wait !== undefined) {
        await wait
      }
      await this.#meta.event('l2_update_compressed')
      const at = (this.#tables.l2Index(offset) % sliceEntries) * geometry.entryBytes
      const { high, low } = compressedEntry(host, bytes, geometry)
      slice.view.setUint32(at, high)
      slice.view.setUint32(at + 4, low)
      if (geometry.extendedL2) {
        slice.view.setUint32(at + 8, 0)
        slice.view.setUint32(at + 12, 0)
      }
      l2.markDirty(slice)
    } finally {
      l2.release(slice)
    }
  }
}

function copy(data: Uint8Array, at: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void {
  buffer.set(data.subarray(at, at + bytes), bufferOffset)
}

/** One cluster of input; the end of a disk is padded with zeroes. */
function wholeCluster(
  buffer: Uint8Array,
  bufferOffset: number,
  bytes: number,
  clusterSize: number,
): Uint8Array {
  const data = buffer.subarray(bufferOffset, bufferOffset + bytes)
  if (bytes === clusterSize) {
    return data
  }
  const padded = new Uint8Array(clusterSize)
  padded.set(data)
  return padded
}
