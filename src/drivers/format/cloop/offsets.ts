import { readU64BE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'
import { type Maybe, TimeSlice } from '../../../sched/index.js'

/** Where the sizes stand, and the table behind them; bytes. */
export const sizesOffset = 128
const tableOffset = 136

const maxBlockBytes = 64 << 20
/** The most a block may take compressed: more is no sound image. */
const maxCompressedBytes = 2 * maxBlockBytes
const maxTableBytes = 512 << 20
/** What QEMU can count in 32 bits. */
const maxBlocks = 0x1fff_ffff

const entryBytes = 8
/** Entries read at a time, and pages of as many kept. */
const pageEntries = 4096
const keptPages = 64
const checkedEntries = 1 << 17

/**
 * Checks the sizes of an image.
 *
 * @param blockBytes bytes of a decoded block
 * @param blocks number of blocks
 * @throws BlockError with QEMU's text
 */
export function parseSizes(blockBytes: number, blocks: number): { blockBytes: number; blocks: number } {
  if (blockBytes % 512 !== 0) {
    throw blockError('EINVAL', `block_size ${blockBytes} must be a multiple of 512`)
  }
  if (blockBytes === 0) {
    throw blockError('EINVAL', 'block_size cannot be zero')
  }
  if (blockBytes > maxBlockBytes) {
    throw blockError('EINVAL', `block_size ${blockBytes} must be 64 MB or less`)
  }
  if (blocks > maxBlocks) {
    throw blockError('EINVAL', `n_blocks ${blocks} must be ${maxBlocks} or less`)
  }
  if ((blocks + 1) * entryBytes > maxTableBytes) {
    throw blockError('EINVAL', 'image requires too many offsets, try increasing block size')
  }
  return { blockBytes, blocks }
}

/**
 * The offsets of the blocks and of their end, read by pages: the table may be larger than memory should be.
 * What lies past the end of the file is zero.
 */
export class OffsetTable {
  /** Number of blocks; the table has one entry more. */
  readonly blocks: number
  readonly #file: IoNode
  readonly #pages = new Map<number, Uint8Array>()

  constructor(file: IoNode, blocks: number) {
    this.#file = file
    this.blocks = blocks
  }

  /** Reads the whole table once. @throws BlockError with QEMU's text if an entry cannot be */
  async check(): Promise<void> {
    const slice = new TimeSlice()
    let previous = 0
    for (let first = 0; first <= this.blocks; first += checkedEntries) {
      const entries = Math.min(checkedEntries, this.blocks + 1 - first)
      const at = tableOffset + first * entryBytes
      if (at >= this.#file.length && previous === 0) {
        // Zeroes from here on, and nothing before.
        return
      }
      const bytes = new Uint8Array(entries * entryBytes)
      await this.#file.read(at, bytes.length, bytes, 0, 0)
      for (let i = 0; i < entries; i++) {
        const offset = readU64BE(bytes, i * entryBytes)
        if (first + i > 0) {
          checkStep(first + i, previous, offset)
        }
        previous = offset
      }
      await slice.breathe()
    }
  }

  /** Where block `index` stands in the file and ends, bytes. */
  place(index: number): Maybe<{ offset: number; bytes: number }> {
    const page = Math.floor(index / pageEntries)
    const kept = this.#pages.get(page)
    if (kept !== undefined) {
      return placeIn(kept, index % pageEntries)
    }
    // One entry more, where the last block of the page ends.
    const bytes = new Uint8Array((pageEntries + 1) * entryBytes)
    const wait = this.#file.read(tableOffset + page * pageEntries * entryBytes, bytes.length, bytes, 0, 0)
    const keep = (): { offset: number; bytes: number } => {
      if (this.#pages.size >= keptPages) {
        const [oldest] = this.#pages.keys()
        this.#pages.delete(oldest as number)
      }
      this.#pages.set(page, bytes)
      return placeIn(bytes, index % pageEntries)
    }
    return wait === undefined ? keep() : wait.then(keep)
  }
}

function placeIn(page: Uint8Array, index: number): { offset: number; bytes: number } {
  const offset = readU64BE(page, index * entryBytes)
  return { offset, bytes: readU64BE(page, (index + 1) * entryBytes) - offset }
}

function checkStep(index: number, previous: number, offset: number): void {
  if (offset < previous) {
    throw blockError(
      'EINVAL',
      `offsets not monotonically increasing at index ${index}, image file is corrupt`,
    )
  }
  // Also where both are beyond what can be told apart.
  if (!(offset - previous <= maxCompressedBytes)) {
    throw blockError('EINVAL', `invalid compressed block size at index ${index}, image file is corrupt`)
  }
}
