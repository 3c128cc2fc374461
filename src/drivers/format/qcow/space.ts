import { alignUp } from '../../../bytes/index.js'
import { ioError } from '../../../errors/index.js'
import { type BlockChild, hasZeroInit } from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'

/** New space, bytes. */
export interface NewSpace {
  readonly offset: number
  /** Whether it reads as zeroes already. */
  readonly isZero: boolean
}

/** Where new clusters, tables and compressed data go: behind everything else, as the format knows no free space. */
export class FileSpace {
  readonly #file: BlockChild
  readonly #clusterSize: number
  /** Clusters that were taken and not used. */
  readonly #spare: number[] = []
  #end = 0
  /** From here on the file reads as zeroes, bytes. */
  #clean = 0

  constructor(file: BlockChild, clusterSize: number) {
    this.#file = file
    this.#clusterSize = clusterSize
  }

  /**
   * Looks where the file ends. Before anything is taken, and whenever something else has changed that.
   *
   * @param floor everything new stands behind this, bytes
   */
  prepare(floor: number): void {
    const { node } = this.#file
    this.#spare.length = 0
    // A crash may have cut off the zeroes at the end of the last cluster.
    this.#end = alignUp(Math.max(node.length, floor), this.#clusterSize)
    this.#clean = hasZeroInit(node) ? this.#end : Number.POSITIVE_INFINITY
  }

  /** Behind everything that is in use, bytes. */
  get end(): number {
    return this.#end
  }

  /** Most clusters that {@link takeClusters} gives at a time at the moment. */
  get run(): number {
    return this.#spare.length === 0 ? Number.POSITIVE_INFINITY : 1
  }

  /** Throws EFBIG if there is no room for `bytes` more. Before anything is taken, with nothing in between. */
  checkRoom(bytes: number): void {
    if (this.#end + bytes + this.#clusterSize > maxLength) {
      throw ioError('EFBIG')
    }
  }

  /** `count` clusters in a row, at most {@link run}. */
  takeClusters(count: number): NewSpace {
    const spare = this.#spare.pop()
    if (spare !== undefined) {
      return { offset: spare, isZero: false }
    }
    const offset = alignUp(this.#end, this.#clusterSize)
    this.#end = offset + count * this.#clusterSize
    return { offset, isZero: offset >= this.#clean }
  }

  /** Room for a table. */
  takeTable(bytes: number): number {
    const offset = alignUp(this.#end, this.#clusterSize)
    this.#end = offset + bytes
    return offset
  }

  /** Room for compressed data, at any byte. */
  takeBytes(bytes: number): number {
    const offset = this.#end
    this.#end += bytes
    return offset
  }

  /** The clusters will not be used after all; something may have been written there. */
  giveBack({ offset }: NewSpace, count: number): void {
    for (let i = 0; i < count; i++) {
      this.#spare.push(offset + i * this.#clusterSize)
    }
  }
}
