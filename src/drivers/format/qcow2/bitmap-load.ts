import { codeOf, errnoError, ioError } from '../../../errors/index.js'
import type { BlockNode, DirtyBitmap } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { type BitmapEntry, readBitmapDirectory } from './bitmap-directory.js'
import { allOnes, allZeroes, readBitmapTable } from './bitmap-table.js'
import { readPadded } from './file-read.js'
import type { Qcow2Header } from './header.js'

/** Guest bytes that a cluster of a bitmap stands for. */
export function bitmapClusterSpan(header: Qcow2Header, granularity: number): number {
  return header.clusterSize * 8 * granularity
}

/** Reads the bitmaps of an image. */
export class BitmapLoader {
  readonly #file: IoNode
  readonly #header: Qcow2Header
  readonly #slice = new TimeSlice()
  /** Bitmaps share no clusters: no more can be read than the file has. */
  #clustersLeft: number

  constructor(file: IoNode, header: Qcow2Header) {
    this.#file = file
    this.#header = header
    this.#clustersLeft = Math.ceil(file.length / header.clusterSize)
  }

  /**
   * Makes a dirty bitmap on `node` for each entry of the directory. Those that were not stored when
   * the image was used last are inconsistent. An inconsistent one that the node has already is left
   * alone: that one is newer.
   *
   * @param contents whether the bits are needed; otherwise tables are checked and bitmaps stay clean
   * @returns the entries and their bitmaps; undefined for one that was there
   * @throws BlockError with QEMU's text; the bitmaps made until then are released
   */
  async load(node: BlockNode, contents: boolean): Promise<Map<BitmapEntry, DirtyBitmap | undefined>> {
    const loaded = new Map<BitmapEntry, DirtyBitmap | undefined>()
    try {
      for (const entry of await readBitmapDirectory(this.#file, this.#header)) {
        if (entry.inUse && node.dirtyBitmaps.find(entry.name) !== undefined) {
          loaded.set(entry, undefined)
          continue
        }
        const bitmap = node.dirtyBitmaps.create({
          granularity: entry.granularity,
          name: entry.name,
          size: this.#header.size,
        })
        loaded.set(entry, bitmap)
        bitmap.persistent = true
        if (entry.inUse) {
          bitmap.setInconsistent()
          continue
        }
        await this.readBits(entry, bitmap, contents)
        if (!entry.auto) {
          bitmap.disable()
        }
      }
    } catch (error) {
      for (const bitmap of loaded.values()) {
        bitmap?.release()
      }
      throw error
    }
    return loaded
  }

  /**
   * Checks the table of a bitmap, and adds its bits to `bitmap` if `contents`.
   *
   * @throws BlockError with QEMU's text
   */
  async readBits(entry: BitmapEntry, bitmap: DirtyBitmap, contents: boolean): Promise<void> {
    let table: Float64Array
    try {
      table = await readBitmapTable(this.#file, this.#header, entry)
    } catch (error) {
      throw errnoError(
        codeOf(error),
        `Could not read bitmap_table table from image for bitmap '${entry.name}'`,
        { cause: error },
      )
    }
    try {
      const { clusterSize } = this.#header
      const { bits } = bitmap
      if (entry.tableSize !== Math.ceil(bits.serializedLength(0, bits.size) / clusterSize)) {
        throw ioError('EINVAL')
      }
      if (contents) {
        await this.#readClusters(table, bitmap)
      }
    } catch (error) {
      throw errnoError(codeOf(error), `Could not read bitmap '${entry.name}' from image`, { cause: error })
    }
  }

  async #readClusters(table: Float64Array, { bits }: DirtyBitmap): Promise<void> {
    const { clusterSize } = this.#header
    const span = bitmapClusterSpan(this.#header, bits.granularity)
    const cluster = new Uint8Array(clusterSize)
    for (let index = 0; index < table.length; index++) {
      const at = index * span
      const count = Math.min(span, bits.size - at)
      const entry = table[index] ?? allZeroes
      if (entry === allOnes) {
        bits.set(at, count)
      } else if (entry !== allZeroes && entry < this.#file.length) {
        if (this.#clustersLeft-- <= 0) {
          throw ioError('EINVAL')
        }
        const wait = readPadded(this.#file, entry, cluster)
        if (wait !== undefined) {
          await wait
        }
        bits.deserialize(at, count, cluster)
      }
      const pause = this.#slice.breathe()
      if (pause !== undefined) {
        await pause
      }
    }
  }
}
