import { readU32LE, writeU32LE } from '../../../bytes/index.js'
import { LoadedTable } from '../../../formatkit/index.js'

/** Entry of a block that was never written. */
export const unallocated = 0xffffffff
/** From here on entries are no blocks: never written, or discarded. Both read as zeroes. */
const firstSpecial = 0xfffffffe

/** Entries of the largest map that is taken into memory: 64 MiB of it. */
export const maxBlocks = 1 << 24

/** The block map, all of it in memory as it stands in the file: 4 bytes a block, whole sectors. */
export class BlockMap extends LoadedTable {
  /** Number of the block that holds block `index` of the disk; undefined if there is none. */
  block(index: number): number | undefined {
    const entry = readU32LE(this.bytes, index * 4)
    return entry >= firstSpecial ? undefined : entry
  }

  set(index: number, block: number): void {
    writeU32LE(this.bytes, index * 4, block)
    this.changed(index * 4)
  }
}
