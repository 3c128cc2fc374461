import { ioError } from '../../../errors/index.js'
import { DecodedChunks } from '../../../formatkit/index.js'
import { type BlockNode, truncateNode } from '../../../graph/index.js'
import {
  ExtentFlags,
  type ExtentSink,
  type FlushPath,
  type MapPath,
  type RangeResult,
  type WritePlan,
} from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import { type Extent, type SparseExtent, unallocated, zeroed } from './extent.js'
import { GrainCodec } from './grain-codec.js'
import { sectorBytes } from './sparse-header.js'

/** Grains of all extents are numbered in one row, each extent's from a multiple of this on. */
const grainsPerExtent = 2 ** 32
const maxSector = 2 ** 32

/** What the path asks of the image around it. */
export interface PathOwner {
  readonly node: BlockNode
  /** Throws EINVAL if the backing file is not the one this image was made on. */
  checkParent(): void
  /** Before the first write: gives the contents another identifier. */
  readonly isMarkedChanged: boolean
  markChanged(): Promise<void>
}

interface Allocation {
  readonly extent: SparseExtent
  readonly grain: number
  readonly sector: number
}

/**
 * Requests of an open image.
 *
 * Order on disk: the new content identifier is durable before the first write; grains are durable before
 * the tables that refer to them are written, which happens at a flush.
 */
export class VmdkPath implements MapPath, FlushPath {
  readonly mutex = new Mutex()
  readonly #owner: PathOwner
  readonly #extents: readonly Extent[]
  readonly #codec: GrainCodec
  readonly #decoded: DecodedChunks
  #hint = 0

  constructor(owner: PathOwner, extents: readonly Extent[]) {
    this.#owner = owner
    this.#extents = extents
    this.#codec = new GrainCodec(owner.node.host)
    const place = (chunk: number): [SparseExtent, number] => [
      extents[Math.floor(chunk / grainsPerExtent)] as SparseExtent,
      chunk % grainsPerExtent,
    ]
    this.#decoded = new DecodedChunks({
      size: (chunk) => {
        const [extent, grain] = place(chunk)
        return extent.grainLength(grain)
      },
      cost: (chunk) => place(chunk)[0].grainBytes * 2,
      decode: async (chunk, output) => {
        const [extent, grain] = place(chunk)
        await this.#codec.read(extent, grain, output)
      },
    })
  }

  /** The extent that holds a guest offset below the disk's length. */
  #at(offset: number): Extent {
    const extents = this.#extents
    let index = this.#hint
    while (offset < (extents[index] as Extent).start) {
      index--
    }
    while (offset >= (extents[index] as Extent).start + (extents[index] as Extent).length) {
      index++
    }
    this.#hint = index
    return extents[index] as Extent
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const end = offset + bytes
    for (let at = offset; at < end; ) {
      const extent = this.#at(at)
      const inside = at - extent.start
      if (extent.flat) {
        const count = Math.min(end - at, extent.length - inside)
        if (!out.data(count, extent.file.node, extent.offset + inside, ExtentFlags.recurse)) {
          return undefined
        }
        at += count
        continue
      }
      const grain = Math.floor(inside / extent.grainBytes)
      if (!extent.hasTable(grain)) {
        return this.#loadAndResolve(extent, grain, at, end - at, out)
      }
      const from = inside - grain * extent.grainBytes
      const entry = extent.entry(grain)
      const last = Math.floor(
        (Math.min(end, extent.start + extent.length) - 1 - extent.start) / extent.grainBytes,
      )
      let run = extent.canSet(grain) ? grain + 1 : extent.tableEnd(grain)
      const step = entry > zeroed && !extent.compressed ? extent.grainBytes / sectorBytes : 0
      while (
        run <= last &&
        !(entry > zeroed && extent.compressed) &&
        extent.hasTable(run) &&
        extent.entry(run) === entry + (run - grain) * step
      ) {
        run = extent.canSet(run) ? run + 1 : extent.tableEnd(run)
      }
      const count = Math.min(end - at, extent.length - inside, (run - grain) * extent.grainBytes - from)
      if (!this.#report(extent, grain, entry, from, count, out)) {
        return undefined
      }
      at += count
    }
    return undefined
  }

  #report(
    extent: SparseExtent,
    grain: number,
    entry: number,
    from: number,
    count: number,
    out: ExtentSink,
  ): boolean {
    if (entry === zeroed) {
      return out.zero(count)
    }
    if (entry === unallocated) {
      this.#owner.checkParent()
      return out.unallocated(count)
    }
    if (extent.compressed) {
      return out.encoded(count, this.#extents.indexOf(extent) * grainsPerExtent + grain)
    }
    return out.data(count, extent.file.node, entry * sectorBytes + from, 0)
  }

  async #loadAndResolve(
    extent: SparseExtent,
    grain: number,
    offset: number,
    bytes: number,
    out: ExtentSink,
  ): Promise<void> {
    await extent.load(grain)
    const wait = this.resolveRead(offset, bytes, out)
    if (wait !== undefined) {
      await wait
    }
  }

  readEncoded(cookie: number, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    const extent = this.#extents[Math.floor(cookie / grainsPerExtent)] as SparseExtent
    const from = offset - extent.start - (cookie % grainsPerExtent) * extent.grainBytes
    return this.#decoded.read(cookie, from, bytes, buffer, bufferOffset)
  }

  resolveWrite(offset: number, bytes: number, flags: number, plan: WritePlan): Wait {
    if (!this.#owner.isMarkedChanged) {
      return this.#after(this.#owner.markChanged(), () => this.resolveWrite(offset, bytes, flags, plan))
    }
    const extent = this.#at(offset)
    const inside = offset - extent.start
    if (extent.flat) {
      plan.inPlace(Math.min(bytes, extent.length - inside), extent.file.node, extent.offset + inside)
      return undefined
    }
    const grain = Math.floor(inside / extent.grainBytes)
    if (extent.compressed || !extent.canSet(grain)) {
      // Compressed grains are written once, as a whole; tables are made with the image.
      throw ioError('EIO')
    }
    if (!extent.hasTable(grain)) {
      return this.#after(extent.load(grain), () => this.resolveWrite(offset, bytes, flags, plan))
    }
    const start = grain * extent.grainBytes
    const length = extent.grainLength(grain)
    const from = inside - start
    const count = Math.min(bytes, length - from)
    const entry = extent.entry(grain)
    if (entry > zeroed) {
      plan.inPlace(count, extent.file.node, entry * sectorBytes + from)
      return undefined
    }
    const guest = extent.start + start
    if (!plan.reserve(this.#owner.node.allocations, guest, guest + length)) {
      return undefined
    }
    const { sector, isZero } = extent.take()
    if (sector >= maxSector) {
      throw ioError('EINVAL')
    }
    const token: Allocation = { extent, grain, sector }
    const host = sector * sectorBytes + from
    plan.allocate(count, extent.file.node, host, from, length - from - count, isZero, token)
    return undefined
  }

  async #after(first: Promise<void>, then: () => Wait): Promise<void> {
    await first
    const wait = then()
    if (wait !== undefined) {
      await wait
    }
  }

  commitWrite(plan: WritePlan): Wait {
    const { extent, grain, sector } = plan.token as Allocation
    if (extent.hasTable(grain)) {
      extent.set(grain, sector)
      return undefined
    }
    return this.#after(extent.load(grain), () => this.commitWrite(plan))
  }

  abortWrite(plan: WritePlan): Wait {
    const { extent, sector } = plan.token as Allocation
    extent.giveBack(sector)
    return undefined
  }

  /** Whole grains become zeroed ones where the image has these; what reads as zeroes stays. */
  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    if (!this.#owner.isMarkedChanged) {
      return this.#after(this.#owner.markChanged(), () => this.zero(offset, bytes, flags, out))
    }
    out.bytes = 0
    const extent = this.#at(offset)
    if (extent.flat) {
      return undefined
    }
    const end = Math.min(offset + bytes, extent.start + extent.length)
    for (let at = offset; at < end; ) {
      const inside = at - extent.start
      const grain = Math.floor(inside / extent.grainBytes)
      if (!extent.hasTable(grain)) {
        return out.bytes > 0
          ? undefined
          : this.#after(extent.load(grain), () => this.zero(offset, bytes, flags, out))
      }
      const from = inside - grain * extent.grainBytes
      const count = Math.min(end - at, extent.grainLength(grain) - from)
      const entry = extent.entry(grain)
      const isZero = entry === zeroed || (entry === unallocated && this.#owner.node.backing === undefined)
      if (!isZero) {
        const isWhole = from === 0 && count === extent.grainLength(grain)
        if (!extent.zeroGrains || extent.compressed || !isWhole || !extent.canSet(grain)) {
          return undefined
        }
        extent.set(grain, zeroed)
      }
      at += count
      out.bytes = at - offset
    }
    return undefined
  }

  writeCompressed(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    if (bytes === 0) {
      return this.#endStream()
    }
    const extent = this.#at(offset)
    // Grains of other extents are not compressed, whoever asks for it.
    return extent.flat || !extent.compressed
      ? this.#owner.node.write(offset, bytes, buffer, bufferOffset, 0)
      : this.#writeGrain(offset, bytes, buffer, bufferOffset)
  }

  /** The end of a stream of grains: the files end with whole sectors. */
  async #endStream(): Promise<void> {
    for (const { file } of this.#extents) {
      const length = Math.ceil(file.node.length / sectorBytes) * sectorBytes
      if (length !== file.node.length) {
        await truncateNode(file.node, length, { exact: false, preallocation: 'off', zero: false })
      }
    }
  }

  async #writeGrain(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    if (!this.#owner.isMarkedChanged) {
      await this.#owner.markChanged()
    }
    const extent = this.#at(offset)
    if (extent.flat || !extent.compressed || !extent.hasMarkers) {
      throw ioError('EINVAL')
    }
    const grain = Math.floor((offset - extent.start) / extent.grainBytes)
    const length = extent.grainLength(grain)
    if ((offset - extent.start) % extent.grainBytes !== 0 || bytes !== length || !extent.canSet(grain)) {
      throw ioError('EINVAL')
    }
    const data = await this.#codec.pack(
      offset / sectorBytes,
      buffer.subarray(bufferOffset, bufferOffset + bytes),
    )
    await extent.load(grain)
    if (extent.entry(grain) > zeroed) {
      throw ioError('EIO')
    }
    const sector = extent.next
    if (sector >= maxSector) {
      throw ioError('EINVAL')
    }
    extent.next += data.length / sectorBytes
    await extent.file.node.write(sector * sectorBytes, data.length, data, 0, 0)
    if (!extent.hasTable(grain)) {
      await extent.load(grain)
    }
    extent.set(grain, sector)
  }

  /** Writes everything back. Nothing is in flight any more, so that the files can get their full lengths. */
  async finish(): Promise<void> {
    for (const extent of this.#extents) {
      // Others expect whole grains.
      if (!extent.flat && !extent.compressed && extent.end > extent.file.node.length) {
        const how = { exact: false, preallocation: 'off', zero: false } as const
        await truncateNode(extent.file.node, extent.end, how)
      }
    }
    const wait = this.flushToOs()
    if (wait !== undefined) {
      await wait
    }
  }

  flushToOs(): Wait {
    for (const extent of this.#extents) {
      if (!extent.flat && extent.isDirty) {
        return this.mutex.run(() => this.writeBack())
      }
    }
    return undefined
  }

  /** The mutex is held. */
  async writeBack(): Promise<void> {
    for (const extent of this.#extents) {
      if (extent.flat || !extent.isDirty) {
        continue
      }
      const { node } = extent.file
      await node.flush()
      await extent.writeTables()
    }
  }
}
