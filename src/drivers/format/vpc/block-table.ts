import { readU32BE, writeU32BE } from '../../../bytes/index.js'
import { LoadedTable } from '../../../formatkit/index.js'
import { sectorBytes } from './geometry.js'

/** Entry of a block that is not there. */
const unused = 0xffffffff

/** Entries of the largest table that is taken into memory: 64 MiB of it. */
export const maxTableEntries = 1 << 24

/**
 * The block allocation table, all of it in memory as it stands in the file (4 bytes a block). Changes
 * stay in memory until they are taken and written.
 */
export class BlockTable extends LoadedTable {
  get entries(): number {
    return Math.floor(this.bytes.length / 4)
  }

  /** Where the block's bitmap begins, bytes; undefined if the block is not there. */
  blockOffset(index: number): number | undefined {
    const at = index * 4
    const { bytes } = this
    const high = ((bytes[at] as number) << 8) | (bytes[at + 1] as number)
    const low = ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number)
    return high === 0xffff && low === 0xffff ? undefined : (high * 0x10000 + low) * sectorBytes
  }

  /** @param offset place of the bitmap, bytes; undefined: the block is not there any more */
  set(index: number, offset: number | undefined): void {
    writeU32BE(this.bytes, index * 4, offset === undefined ? unused : offset / sectorBytes)
    this.changed(index * 4)
  }

  /** Ends of all blocks and the table: what lies beyond is free. Bytes. */
  end(blockBytes: number): number {
    let end = Math.ceil((this.offset + this.bytes.length) / sectorBytes) * sectorBytes
    for (let at = 0; at + 4 <= this.bytes.length; at += 4) {
      const entry = readU32BE(this.bytes, at)
      if (entry !== unused) {
        end = Math.max(end, entry * sectorBytes + blockBytes)
      }
    }
    return end
  }
}
