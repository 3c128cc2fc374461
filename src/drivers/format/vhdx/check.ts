import type { Bat } from './bat.js'
import { BlockState, mebibyte } from './layout.js'
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
    const state = bat.state(index)
    const isBitmap = index % chunk === disk.ratio
    const isThere = state === BlockState.fullyPresent
    if (isBitmap ? !isThere || disk.parent === undefined : !isThere && !isPart(state, disk)) {
      continue
    }
    const offset = bat.place(index)
    const block = index - Math.floor(index / chunk)
    const whole = isBitmap ? mebibyte : disk.blockBytes
    const length = isBitmap ? whole : Math.max(0, Math.min(whole, disk.diskBytes - block * whole))
    const end = offset + length
    const region = regions.find((one) => overlaps(one, { offset, length: whole }))
    if (region !== undefined) {
      lines.push(overlapText({ offset, length: whole }, region))
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

/** Whether the block is there in part, which makes sense with a parent only. */
function isPart(state: number, { parent }: DiskParameters): boolean {
  return state === BlockState.partiallyPresent && parent !== undefined
}
