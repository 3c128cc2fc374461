import { blockError, isBlockError, strerror } from '../../../errors/index.js'
import type { CheckFailure, CheckResult } from '../../../graph/index.js'
import { type Extent, zeroed } from './extent.js'
import { sectorBytes } from './sparse-header.js'

/**
 * Looks up every grain, with QEMU's lines. What is wrong ends the check.
 *
 * @throws BlockError with a {@link CheckFailure} as its cause
 */
export async function checkExtents(extents: readonly Extent[]): Promise<CheckResult> {
  const result: CheckResult = {
    corruptions: 0,
    leaks: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
    checkErrors: 0,
    imageEndOffset: 0,
    totalClusters: 0,
    allocatedClusters: 0,
    fragmentedClusters: 0,
    compressedClusters: 0,
    messages: [],
  }
  const fail = (line: string): never => {
    result.messages.push(line)
    result.corruptions++
    const cause: CheckFailure = { partial: result }
    throw blockError('EINVAL', strerror('EINVAL'), { cause })
  }
  for (const extent of extents) {
    if (extent.flat) {
      continue
    }
    const grains = Math.ceil(extent.length / extent.grainBytes)
    for (let grain = 0; grain < grains; ) {
      const sector = (extent.start + grain * extent.grainBytes) / sectorBytes
      let entry = 0
      let next = grain + 1
      try {
        if (!extent.canSet(grain)) {
          // A large disk may have few tables.
          next = extent.tableEnd(grain)
        } else if (!extent.hasTable(grain)) {
          await extent.load(grain)
        }
        entry = extent.entry(grain)
      } catch (error) {
        if (!isBlockError(error)) {
          throw error
        }
        fail(`ERROR: could not get cluster_offset for sector ${sector}`)
      }
      if (entry > zeroed && entry * sectorBytes >= extent.file.node.length) {
        fail(`ERROR: cluster offset for sector ${sector} points after EOF`)
      }
      grain = next
    }
  }
  return result
}
