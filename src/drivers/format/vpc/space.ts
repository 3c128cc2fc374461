import { codeOf } from '../../../errors/index.js'
import { type BlockChild, hasZeroInit, truncateNode } from '../../../graph/index.js'
import type { Wait } from '../../../sched/index.js'
import type { BlockTable } from './block-table.js'
import { type DynamicHeader, dynamicHeaderBytes } from './dynamic-header.js'
import { type Footer, footerBytes } from './footer.js'
import { sectorBytes } from './geometry.js'

/** Room for one more block. */
export interface NewBlock {
  /** Place of the bitmap, bytes; the data stands behind it. */
  readonly offset: number
  /** Whether the data reads as zeroes already. */
  readonly isZero: boolean
}

/**
 * Where new blocks go: at the end of the file, over the footer, which is written behind them again by
 * {@link BlockSpace.writeFooter}. Until then the copy at the start of the file is the footer.
 */
export class BlockSpace {
  readonly #file: BlockChild
  /** Bytes of a block with its bitmap. */
  readonly blockBytes: number
  footer: Footer
  #free: number
  /** Where the last footer stands, if it is right. */
  #footerAt: number | undefined
  readonly #spare: number[] = []
  /** What lies behind the end is known to read as zeroes. */
  #clean = false
  #prepared = false

  /** @param free end of everything in the file, bytes */
  constructor(file: BlockChild, blockBytes: number, footer: Footer, free: number) {
    this.#file = file
    this.blockBytes = blockBytes
    this.footer = footer
    this.#free = free
    this.#footerAt = free
  }

  get isPrepared(): boolean {
    return this.#prepared
  }

  /** Where the footer belongs: behind everything else. Bytes. */
  get end(): number {
    return this.#free
  }

  /** Cuts off what a crash may have left behind the footer, so that new blocks read as zeroes. Once, before {@link take}. */
  async prepare(): Promise<void> {
    if (this.#prepared) {
      return
    }
    const node = this.#file.node
    const end = this.#free + footerBytes
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
    if (spare !== undefined) {
      return { offset: spare, isZero: false }
    }
    return { offset: this.reserve(this.blockBytes), isZero: this.#clean }
  }

  /** Takes `bytes` (whole sectors) at the end of the file for something else than a block. */
  reserve(bytes: number): number {
    const offset = this.#free
    this.#free += bytes
    return offset
  }

  /** The block will not be used after all. */
  giveBack(block: NewBlock): void {
    this.#spare.push(block.offset)
  }

  /** The file ends at `end` from now on. */
  cut(end: number): void {
    this.#free = end
    this.#spare.length = 0
    this.#prepared = false
    this.#footerAt = undefined
  }

  /** Nothing at the end says where it is: the footer has to be written anew. */
  footerChanged(): void {
    this.#footerAt = undefined
  }

  /** Writes the footer behind everything else if it is not there. */
  writeFooter(): Wait {
    const at = this.#free
    if (this.#footerAt === at) {
      return undefined
    }
    const wait = this.#file.node.write(at, footerBytes, this.footer.bytes, 0, 0)
    if (wait === undefined) {
      this.#footerAt = at
      return undefined
    }
    return this.#footerWritten(wait, at)
  }

  async #footerWritten(wait: Promise<void>, at: number): Promise<void> {
    await wait
    this.#footerAt = at
  }
}

/** End of what stands in the file besides blocks and must not be overwritten either. Bytes, whole sectors. */
export function metadataEnd(
  file: BlockChild,
  footer: Footer,
  header: DynamicHeader,
  table: BlockTable,
): number {
  let end = Math.max(table.offset + table.bytes.length, footer.dataOffset + dynamicHeaderBytes, footerBytes)
  for (const locator of header.locators) {
    const locatorEnd = locator.offset + locator.length
    if (locator.platform !== undefined && locatorEnd <= file.node.length) {
      end = Math.max(end, locatorEnd)
    }
  }
  return Math.ceil(end / sectorBytes) * sectorBytes
}

/** Sizes of a block, bytes. */
export interface BlockShape {
  readonly blockSize: number
  /** One bit a sector, rounded up to whole sectors. */
  readonly bitmapBytes: number
}

export function blockShape(blockSize: number): BlockShape {
  return { blockSize, bitmapBytes: Math.ceil(blockSize / (8 * 512) / 512) * 512 }
}

/** What the paths of dynamic and differencing disks work with. */
export interface BlockContext {
  readonly file: BlockChild
  readonly table: BlockTable
  readonly space: BlockSpace
  readonly shape: BlockShape
}
