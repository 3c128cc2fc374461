import type { Bat } from './bat.js'
import { BlockState } from './layout.js'
import { type DiskParameters, overlaps, overlapText, type Region } from './metadata.js'

/**
 * Lines about entries of the block table that cannot be right, in QEMU's words; `first`: no more than
 * one. Bytes.
 */
export function checkTable(
  bat: Bat,
  disk: DiskParameters,
  regions: readonly Region[],
  fileBytes: number,
  first: boolean,
): string[] {
  const lines: string[] = []
  const chunk = disk.ratio + 1
  for (let index = 0; index < bat.entries; index++) {
    if (index % chunk === disk.ratio || bat.state(index) !== BlockState.fullyPresent) {
      continue
    }
    const offset = bat.place(index)
    const block = index - Math.floor(index / chunk)
    const length = Math.min(disk.blockBytes, disk.diskBytes - block * disk.blockBytes)
    const end = offset + length
    const region = regions.find((one) => overlaps(one, { offset, length: disk.blockBytes }))
    if (region !== undefined) {
      lines.push(overlapText({ offset, length: disk.blockBytes }, region))
    } else if (offset >= fileBytes) {
      lines.push(
        `VHDX BAT entry ${index} start offset ${offset} points after end of file (${fileBytes}). ` +
          'Image has probably been truncated.',
      )
    } else if (end > fileBytes) {
      lines.push(
        `VHDX BAT entry ${index} end offset ${end - 1} points after end of file (${fileBytes}). ` +
          'Image has probably been truncated.',
      )
    }
    if (first && lines.length !== 0) {
      return lines
    }
  }
  return lines
}
