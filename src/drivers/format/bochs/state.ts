import { ioError } from '../../../errors/index.js'
import type { DriverState, FormatDetails } from '../../../graph/index.js'
import { type BlockLimits, type ExtentSink, type IoNode, type MapPath, maxLength } from '../../../io/index.js'
import type { Maybe, Wait } from '../../../sched/index.js'
import type { BochsHeader } from './header.js'

const sectorBytes = 512
/** Catalog entry of an extent that holds nothing. */
const unallocated = 0xffff_ffff
/** Beyond this offset a read fails instead of reading as zeroes: what QEMU's offsets can say. */
const largestOffset = 2 ** 63 - 2 ** 30
/** Bitmaps kept in memory, 2 KiB each at most. */
const keptBitmaps = 1024

/** An open image: catalog in memory, bitmaps of extents on demand. */
export class BochsState implements DriverState, MapPath {
  readonly map: MapPath = this
  readonly length: number
  readonly #file: IoNode
  readonly #header: BochsHeader
  readonly #catalog: Uint32Array
  /** By extent; the one read longest ago first. */
  readonly #bitmaps = new Map<number, Uint8Array>()

  constructor(file: IoNode, header: BochsHeader, catalog: Uint32Array) {
    this.#file = file
    this.#header = header
    this.#catalog = catalog
    this.length = header.length
  }

  refreshLimits(limits: BlockLimits): void {
    limits.requestAlignment = sectorBytes
  }

  details(): FormatDetails {
    const { extentBytes, catalogEntries } = this.#header
    return { type: 'bochs', data: { 'extent-size': extentBytes, extents: catalogEntries } }
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const { extentBytes } = this.#header
    for (let at = offset; at < offset + bytes; ) {
      const extent = Math.floor(at / extentBytes)
      const chunk = Math.min((extent + 1) * extentBytes, offset + bytes) - at
      if ((this.#catalog[extent] ?? unallocated) === unallocated) {
        if (!out.zero(chunk)) {
          return undefined
        }
      } else {
        const bitmap = this.#bitmap(extent)
        if (bitmap instanceof Promise) {
          return bitmap.then(() => this.resolveRead(at, offset + bytes - at, out))
        }
        if (!this.#report(bitmap, extent, at % extentBytes, chunk, out)) {
          return undefined
        }
      }
      at += chunk
    }
    return undefined
  }

  /** Reports the runs of present and absent sectors in `[from, +bytes)` of an extent. */
  #report(bitmap: Uint8Array, extent: number, from: number, bytes: number, out: ExtentSink): boolean {
    const first = from / sectorBytes
    const end = first + bytes / sectorBytes
    for (let sector = first; sector < end; ) {
      const present = isSet(bitmap, sector)
      let next = sector + 1
      while (next < end && isSet(bitmap, next) === present) {
        next++
      }
      const run = (next - sector) * sectorBytes
      const more = present ? out.data(run, this.#file, this.#dataAt(extent, sector), 0) : out.zero(run)
      if (!more) {
        return false
      }
      sector = next
    }
    return true
  }

  #dataAt(extent: number, sector: number): number {
    const offset = this.#bitmapAt(extent) + sectorBytes * (this.#header.bitmapSectors + sector)
    if (offset > largestOffset) {
      throw ioError('EIO', { node: this.#file.nodeName, operation: 'read' })
    }
    return offset
  }

  #bitmapAt(extent: number): number {
    const { dataOffset, bitmapSectors, extentSectors } = this.#header
    return dataOffset + sectorBytes * (this.#catalog[extent] ?? 0) * ((bitmapSectors + extentSectors) >>> 0)
  }

  /** Which sectors of the extent are present. An extent past the end of the file has none. */
  #bitmap(extent: number): Maybe<Uint8Array> {
    const kept = this.#bitmaps.get(extent)
    if (kept !== undefined) {
      return kept
    }
    const offset = this.#bitmapAt(extent)
    if (offset > largestOffset) {
      throw ioError('EIO', { node: this.#file.nodeName, operation: 'read' })
    }
    const bitmap = new Uint8Array(Math.ceil(this.#header.extentSectors / 8))
    const wait =
      offset + bitmap.length > maxLength ? undefined : this.#file.read(offset, bitmap.length, bitmap, 0, 0)
    if (wait !== undefined) {
      return wait.then(() => this.#keep(extent, bitmap))
    }
    return this.#keep(extent, bitmap)
  }

  #keep(extent: number, bitmap: Uint8Array): Uint8Array {
    if (this.#bitmaps.size >= keptBitmaps) {
      const [oldest] = this.#bitmaps.keys()
      this.#bitmaps.delete(oldest as number)
    }
    this.#bitmaps.set(extent, bitmap)
    return bitmap
  }

  close(): Wait {
    return undefined
  }
}

function isSet(bitmap: Uint8Array, sector: number): boolean {
  return (((bitmap[sector >> 3] as number) >> (sector & 7)) & 1) !== 0
}
