import type { CheckFix, CheckResult } from '../../../graph/index.js'
import { truncateTo } from './file-end.js'
import type { ImageParts } from './path.js'

/** Bytes that are copied at a time. */
const copyBytes = 1 << 20

/**
 * Looks for clusters that stand outside the file or on top of each other, for space behind the last one
 * and for the mark of an image that was not closed, with QEMU's lines.
 *
 * @returns also whether the mark is still there
 */
export async function checkImage(
  parts: ImageParts,
  unclean: boolean,
  fix: CheckFix,
): Promise<{ result: CheckResult; unclean: boolean }> {
  const { table, file } = parts
  const result: CheckResult = {
    corruptions: 0,
    leaks: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
    checkErrors: 0,
    imageEndOffset: 0,
    totalClusters: table.entries,
    allocatedClusters: 0,
    fragmentedClusters: 0,
    compressedClusters: 0,
    messages: [],
  }
  const verb = fix.errors ? 'Repairing' : 'ERROR'
  const found = (line: string): void => {
    result.messages.push(`${verb} ${line}`)
    result.corruptions++
    result.corruptionsFixed += fix.errors ? 1 : 0
  }
  if (unclean) {
    found('image was not closed correctly')
  }
  const end = findClusters(parts, result, found, fix.errors)
  const overlapping = overlapsOf(parts, result.allocatedClusters)
  for (const index of overlapping) {
    found(`duplicate offset in BAT entry ${index}`)
  }
  if (fix.errors) {
    await copyApart(parts, overlapping)
    if (table.isDirty) {
      await table.store(file)
    }
    if (unclean) {
      table.inUse = false
      await table.store(file)
    }
  }
  result.imageEndOffset = fix.errors && overlapping.length > 0 ? table.dataEnd() : end
  const behind = file.node.length - Math.max(result.imageEndOffset, parts.extensionEnd)
  if (behind > 0) {
    const count = Math.ceil(behind / table.clusterSize)
    result.messages.push(
      `${fix.leaks ? 'Repairing' : 'ERROR'} space leaked at the end of the image ${behind}`,
    )
    result.leaks = count
    if (fix.leaks) {
      if (table.extOffset !== 0 && parts.extensionEnd === 0) {
        // It cannot be read and would be cut.
        table.dropExtension()
        await table.store(file)
      }
      await truncateTo(file, Math.max(result.imageEndOffset, parts.extensionEnd))
      result.leaksFixed = count
    }
  }
  // What was repaired is not there any more.
  result.corruptions -= result.corruptionsFixed
  result.leaks -= result.leaksFixed
  return { result, unclean: unclean && !fix.errors }
}

/** Counts the clusters; those outside the file are taken out of the table if `drop`. The result is the image's end, bytes. */
function findClusters(
  { table, file }: ImageParts,
  result: CheckResult,
  found: (line: string) => void,
  drop: boolean,
): number {
  const { clusterSize } = table
  let highest = 0
  /** The last entry with a cluster that counts, and its place. */
  let last = -2
  let before = 0
  table.eachCluster((index, offset) => {
    const isOutside = offset > file.node.length
    if (isOutside) {
      found(`cluster ${index} is outside image`)
    }
    if (isOutside && drop) {
      table.set(index, 0)
      return
    }
    result.allocatedClusters++
    highest = Math.max(highest, offset)
    result.fragmentedClusters += last === index - 1 && before + clusterSize !== offset ? 1 : 0
    last = index
    before = offset
  })
  // The table is no leak, however long it is.
  return Math.max(highest + clusterSize, table.dataStart)
}

/** Entries whose clusters begin inside another one. `allocated`: how many entries have a cluster. */
function overlapsOf({ table, file }: ImageParts, allocated: number): number[] {
  const { clusterSize } = table
  const { length } = file.node
  const offsets = new Float64Array(allocated)
  let count = 0
  let isSorted = true
  table.eachCluster((_, offset) => {
    if (offset <= length) {
      isSorted = isSorted && (count === 0 || offset >= (offsets[count - 1] as number) + clusterSize)
      offsets[count++] = offset
    }
  })
  if (isSorted) {
    return []
  }
  const sorted = offsets.subarray(0, count).sort()
  const touched = new Set<number>()
  for (let i = 1; i < count; i++) {
    const offset = sorted[i] as number
    if (offset < (sorted[i - 1] as number) + clusterSize) {
      touched.add(offset)
    }
  }
  if (touched.size === 0) {
    return []
  }
  // The first entry of those that share a place keeps it.
  const taken = new Set<number>()
  const overlapping: number[] = []
  table.eachCluster((index, offset) => {
    if (touched.has(offset)) {
      const starts = sorted[lowerBound(sorted, offset) - 1] ?? Number.NEGATIVE_INFINITY
      if (taken.has(offset) || starts + clusterSize > offset) {
        overlapping.push(index)
      }
      taken.add(offset)
    }
  })
  return overlapping
}

/** Index of the first number that is not below `value`. */
function lowerBound(sorted: Float64Array, value: number): number {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((sorted[middle] as number) < value) {
      low = middle + 1
    } else {
      high = middle
    }
  }
  return low
}

/** Gives each of these entries a cluster of its own with the same contents. */
async function copyApart(
  { table, file, space, extensionEnd }: ImageParts,
  indices: readonly number[],
): Promise<void> {
  if (indices.length === 0) {
    return
  }
  const { node } = file
  const { clusterSize } = table
  space.prepare(extensionEnd)
  const buffer = new Uint8Array(Math.min(copyBytes, clusterSize))
  const places: [index: number, offset: number][] = []
  for (const index of indices) {
    const from = table.cluster(index)
    space.checkRoom()
    const to = space.take().offset
    for (let at = 0; at < clusterSize; at += buffer.length) {
      const bytes = Math.min(buffer.length, clusterSize - at)
      const inside = Math.max(0, Math.min(bytes, node.length - from - at))
      buffer.fill(0, inside)
      if (inside > 0) {
        await node.read(from + at, inside, buffer, 0, 0)
      }
      await node.write(to + at, bytes, buffer, 0, 0)
    }
    places.push([index, to])
  }
  await node.flush()
  for (const [index, offset] of places) {
    table.set(index, offset)
  }
}
