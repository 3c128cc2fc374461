import type { CheckFix, CheckResult } from '../../../graph/index.js'
import { maxBlocks } from './block-map.js'
import { headerBytes } from './header.js'
import type { VdiParts } from './path.js'

/**
 * Looks for blocks that are used twice or do not exist, and counts them, with QEMU's lines. Blocks that
 * the header counts and nothing uses are leaks (QEMU: corruptions); a count below a block that is in use is
 * corrupt, since QEMU would give that block away again. `fix` puts the count right and moves the last
 * blocks into gaps.
 */
export async function checkImage(parts: VdiParts, fix: CheckFix): Promise<CheckResult> {
  const { header, map, file } = parts
  const messages: string[] = []
  // A crash while the disk grew leaves blocks behind the last one: counted, and all there.
  const inFile = Math.floor((file.node.length - header.dataOffset) / header.blockSize)
  const grown = Math.min(header.allocated, inFile, header.blocks + maxBlocks)
  const limit = Math.max(header.blocks, grown)
  /** Which entry uses a block; -1: none. */
  const owners = new Int32Array(limit).fill(-1)
  let next = 0
  let allocated = 0
  let corruptions = 0
  for (let index = 0; index < header.blocks; index++) {
    const block = map.block(index)
    if (block === undefined) {
      continue
    }
    if (block >= limit) {
      messages.push(`ERROR: block index ${index} too large, is ${block}`)
      corruptions++
      continue
    }
    allocated++
    if (owners[block] !== -1) {
      messages.push(`ERROR: block index ${block} also used by ${block}`)
      corruptions++
    }
    owners[block] = index
    next = Math.max(next, block + 1)
  }
  const isLow = header.allocated < next
  if (allocated !== header.allocated) {
    messages.push(`ERROR: allocated blocks mismatch, is ${allocated}, should be ${header.allocated}`)
  }
  const wrongCount = allocated !== header.allocated
  const isBroken = corruptions > 0
  const leaks = wrongCount && !isLow && !isBroken ? header.allocated - allocated : 0
  corruptions += wrongCount && leaks === 0 ? 1 : 0
  const result = {
    corruptions,
    leaks,
    corruptionsFixed: 0,
    leaksFixed: 0,
    checkErrors: 0,
    imageEndOffset: 0,
    totalClusters: 0,
    allocatedClusters: 0,
    fragmentedClusters: 0,
    compressedClusters: 0,
    messages,
  }
  if (wrongCount && !isBroken && (isLow ? fix.errors : fix.leaks)) {
    await closeGaps(parts, owners, next)
    header.allocated = allocated
    await parts.file.node.write(0, headerBytes, header.bytes.slice(), 0, 0)
    await parts.file.node.flush()
    parts.space.reset()
    if (isLow) {
      result.corruptions--
      result.corruptionsFixed++
    } else {
      result.leaks = 0
      result.leaksFixed = leaks
    }
  }
  return result
}

/** Moves the last blocks into the gaps before them. */
async function closeGaps(parts: VdiParts, owners: Int32Array, next: number): Promise<void> {
  const { header, map, file } = parts
  const { node } = file
  const { blockSize, dataOffset } = header
  const place = (block: number): number => dataOffset + block * blockSize
  // Higher than any block until the map is written: a crash leaves leaks again.
  header.allocated = Math.max(next, header.allocated)
  await node.write(0, headerBytes, header.bytes.slice(), 0, 0)
  const buffer = new Uint8Array(Math.min(blockSize, 1 << 20))
  let end = next
  for (let gap = 0; gap < end; gap++) {
    if (owners[gap] !== -1) {
      continue
    }
    while (end > gap && owners[end - 1] === -1) {
      end--
    }
    if (end <= gap) {
      break
    }
    end--
    for (let at = 0; at < blockSize; at += buffer.length) {
      const inside = Math.max(0, Math.min(buffer.length, node.length - place(end) - at))
      buffer.fill(0, inside)
      if (inside > 0) {
        await node.read(place(end) + at, inside, buffer, 0, 0)
      }
      await node.write(place(gap) + at, buffer.length, buffer, 0, 0)
    }
    map.set(owners[end] as number, gap)
  }
  await node.flush()
  await map.write(map.takeChanges())
  await node.flush()
}
