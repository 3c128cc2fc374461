import { writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import { cylindersOf } from './create.js'
import { at, headerBytes, maxEntries, sectorBytes, tableEnd } from './layout.js'
import type { ParallelsParts } from './path.js'

/** Bytes that are copied at a time. */
const copyBytes = 1 << 20

/**
 * Makes the disk longer. A table that has no room to grow takes the place of the first clusters, which move
 * behind the last one; the header, in the first sector, then turns the image over at once. The image is
 * marked as in use; in each state a crash can leave, it has the old length or the new one and all its data.
 */
export async function grow(parts: ParallelsParts, length: number): Promise<void> {
  const { table, file } = parts
  const { node } = file
  const entries = Math.max(table.entries, Math.ceil(length / table.clusterSize))
  const sectors = Math.ceil(length / sectorBytes)
  if (entries > maxEntries || (table.unit === sectorBytes && sectors > 0xffffffff)) {
    throw blockError('E2BIG', 'Image size is too large for this cluster size')
  }
  const end = tableEnd(entries)
  const start = Math.max(table.dataStart, Math.ceil(end / table.unit) * table.unit)
  await moveBehind(parts, end)
  const bytes = new Uint8Array(end)
  bytes.set(table.bytes.subarray(0, headerBytes + table.entries * 4))
  if (end > sectorBytes) {
    await node.write(sectorBytes, end - sectorBytes, bytes, sectorBytes, 0)
  }
  await node.flush()
  writeU32LE(bytes, at.entries, entries)
  writeU64LE(bytes, at.sectors, sectors)
  writeU32LE(bytes, at.cylinders, cylindersOf(length))
  writeU32LE(bytes, at.dataOffset, start / sectorBytes)
  await node.write(0, sectorBytes, bytes, 0, 0)
  await node.flush()
  table.replace(0, bytes)
  parts.space.prepare()
}

/** Copies the clusters that stand in the table's way, below `end` bytes, behind all others. */
async function moveBehind({ table, file, space }: ParallelsParts, end: number): Promise<void> {
  const { node } = file
  const { clusterSize, entries } = table
  const buffer = new Uint8Array(Math.min(copyBytes, clusterSize))
  const places: [index: number, offset: number][] = []
  for (let index = 0; index < entries; index++) {
    const from = table.cluster(index)
    if (from === 0 || from >= end) {
      continue
    }
    space.checkRoom()
    const to = space.take().offset
    for (let done = 0; done < clusterSize; done += buffer.length) {
      const bytes = Math.min(buffer.length, clusterSize - done)
      const inside = Math.max(0, Math.min(bytes, node.length - from - done))
      buffer.fill(0, inside)
      if (inside > 0) {
        await node.read(from + done, inside, buffer, 0, 0)
      }
      await node.write(to + done, bytes, buffer, 0, 0)
    }
    places.push([index, to])
  }
  await node.flush()
  for (const [index, offset] of places) {
    table.set(index, offset)
  }
  if (table.isDirty) {
    await table.store(file)
  }
}
