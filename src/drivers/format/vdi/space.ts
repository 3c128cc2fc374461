import { codeOf } from '../../../errors/index.js'
import { type BlockChild, hasZeroInit, truncateNode } from '../../../graph/index.js'
import type { BlockMap } from './block-map.js'
import type { VdiHeader } from './header.js'

export interface NewBlock {
  readonly number: number
  /** Whether it reads as zeroes already. */
  readonly isZero: boolean
}

/**
 * Where new blocks go: numbers that nothing uses first (a crash may leave some), then behind the last one.
 * Whatever the header counts, a number that the map uses is not given away again.
 */
export class BlockSpace {
  readonly #file: BlockChild
  readonly #header: VdiHeader
  readonly #map: BlockMap
  readonly #spare: number[] = []
  #next = 0
  #clean = false
  #prepared = false

  constructor(file: BlockChild, header: VdiHeader, map: BlockMap) {
    this.#file = file
    this.#header = header
    this.#map = map
  }

  get isPrepared(): boolean {
    return this.#prepared
  }

  /** Number of the block behind all others. Prepared. */
  get next(): number {
    return this.#next
  }

  /** Looks which numbers are free, and cuts off what a crash left behind the last block. Once, before {@link take}. */
  async prepare(): Promise<void> {
    if (this.#prepared) {
      return
    }
    const { blocks, blockSize, dataOffset } = this.#header
    let next = 0
    for (let index = 0; index < blocks; index++) {
      next = Math.max(next, (this.#map.block(index) ?? -1) + 1)
    }
    // The map may refer to places far beyond the end: only numbers that the file has are looked at.
    const { node } = this.#file
    const inFile = Math.max(0, Math.floor((node.length - dataOffset) / blockSize))
    const used = new Uint8Array(Math.min(next, inFile))
    for (let index = 0; index < blocks; index++) {
      const block = this.#map.block(index)
      if (block !== undefined && block < used.length) {
        used[block] = 1
      }
    }
    for (let block = used.length - 1; block >= 0; block--) {
      if (used[block] === 0) {
        this.#spare.push(block)
      }
    }
    this.#next = next
    const end = dataOffset + next * blockSize
    this.#clean = hasZeroInit(node)
    if (this.#clean && node.length > end) {
      try {
        await truncateNode(node, end, { exact: false, preallocation: 'off', zero: false })
      } catch (error) {
        if (codeOf(error) !== 'ENOTSUP') {
          throw error
        }
      }
      this.#clean = node.length <= end
    }
    this.#prepared = true
  }

  take(): NewBlock {
    const spare = this.#spare.pop()
    return spare === undefined
      ? { number: this.#next++, isZero: this.#clean }
      : { number: spare, isZero: false }
  }

  /** The block will not be used after all; something may have been written there. */
  giveBack(block: NewBlock): void {
    this.#spare.push(block.number)
    while (this.#next > 0 && this.#spare.includes(this.#next - 1)) {
      this.#next--
      this.#spare.splice(this.#spare.indexOf(this.#next), 1)
      this.#clean = false
    }
  }

  /** Numbers below `end` are taken. */
  takeUpTo(end: number): void {
    this.#next = Math.max(this.#next, end)
  }

  /** The image has another shape now. */
  reset(): void {
    this.#spare.length = 0
    this.#prepared = false
  }
}
