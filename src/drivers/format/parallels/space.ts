import { blockError, isBlockError } from '../../../errors/index.js'
import { type BlockChild, hasZeroInit, truncateNode } from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'
import type { ImageTable } from './image-table.js'

export interface NewCluster {
  /** Bytes. */
  readonly offset: number
  /** Whether it reads as zeroes already. */
  readonly isZero: boolean
}

/** How the file grows beyond what is needed at the moment. */
export interface Preallocation {
  /** Bytes; 0: not at all. */
  readonly size: number
  readonly mode: 'falloc' | 'truncate'
}

/** Where new clusters go: those given back, then behind the last one. */
export class ClusterSpace {
  readonly #file: BlockChild
  readonly #table: ImageTable
  readonly #preallocation: Preallocation
  readonly #spare: number[] = []
  #end = 0
  /** From here on the file reads as zeroes, bytes. */
  #clean = 0
  #canGrow = true

  constructor(file: BlockChild, table: ImageTable, preallocation: Preallocation) {
    this.#file = file
    this.#table = table
    this.#preallocation = preallocation
  }

  /** Looks where the clusters end. Before {@link take}, and whenever something else has moved them. */
  prepare(): void {
    const { node } = this.#file
    this.#spare.length = 0
    this.#end = this.#table.dataEnd()
    // What a crash may have left behind the last cluster is no zeroes.
    this.#clean = hasZeroInit(node) ? Math.max(this.#end, node.length) : Number.POSITIVE_INFINITY
  }

  /** Where the clusters end, bytes. Prepared. */
  get end(): number {
    return this.#end
  }

  /** Whether {@link grow} is due before the next cluster is taken. */
  get wantsRoom(): boolean {
    return (
      this.#canGrow &&
      this.#preallocation.size > 0 &&
      this.#spare.length === 0 &&
      this.#end + this.#table.clusterSize > this.#file.node.length
    )
  }

  /** Makes room for more clusters than one. If the file cannot have it, they get theirs one by one. */
  async grow(): Promise<void> {
    if (!this.wantsRoom) {
      return
    }
    const { size, mode } = this.#preallocation
    const length = this.#end + this.#table.clusterSize + Math.floor(size / 512) * 512
    const preallocation = mode === 'falloc' ? 'falloc' : 'off'
    try {
      await truncateNode(this.#file.node, length, { exact: false, preallocation, zero: true })
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      this.#canGrow = false
    }
  }

  /** Before {@link take}, with nothing in between. @throws BlockError EFBIG */
  checkRoom(): void {
    const { clusterSize } = this.#table
    const isOver = this.#end + clusterSize > maxLength || !this.#table.canSay(this.#end)
    if (isOver && this.#spare.length === 0) {
      throw blockError('EFBIG', 'Image has no room for another cluster')
    }
  }

  take(): NewCluster {
    const spare = this.#spare.pop()
    if (spare !== undefined) {
      return { offset: spare, isZero: false }
    }
    const offset = this.#end
    this.#end += this.#table.clusterSize
    return { offset, isZero: offset >= this.#clean }
  }

  /** The cluster will not be used after all; something may have been written there. */
  giveBack({ offset }: NewCluster): void {
    this.#spare.push(offset)
  }
}
