import { blockError } from '../../../errors/index.js'
import { truncateNode } from '../../../graph/index.js'
import { maxBlocks, unallocated } from './block-map.js'
import { headerBytes, ImageType, maxDiskBytes, sectorBytes, VdiHeader } from './header.js'
import type { VdiParts } from './path.js'

/** Bytes that are copied at a time. */
const copyBytes = 1 << 20

/**
 * Makes the disk longer. A map that has no room to grow is written where the first blocks were, which
 * move behind the last one; the header, a single sector, then turns the image over at once. In each state
 * a crash can leave, the image has the old length or the new one and all its data.
 */
export async function grow(parts: VdiParts, length: number): Promise<void> {
  const { header, map, file, space } = parts
  const { node } = file
  const blocks = Math.ceil(length / header.blockSize)
  if (length > maxDiskBytes || blocks > maxBlocks) {
    const limit = Math.min(maxDiskBytes, maxBlocks * header.blockSize)
    throw blockError(
      'ENOTSUP',
      `Unsupported VDI image size (size is 0x${length.toString(16)}, max supported is 0x${limit.toString(16)})`,
    )
  }
  if (header.mapOffset >= header.dataOffset && blocks > header.blocks) {
    throw blockError('ENOTSUP', 'Block map stands behind the data')
  }
  await space.prepare()
  const bytes = new Uint8Array(Math.ceil((blocks * 4) / sectorBytes) * sectorBytes)
  const old = header.blocks
  const next = new VdiHeader(header.bytes.slice())
  next.diskSize = length
  next.blocks = Math.max(blocks, old)
  if (blocks <= old) {
    await turnOver(parts, next)
    return
  }
  let moved = 0
  if (header.mapOffset + bytes.length > header.dataOffset) {
    moved = Math.ceil(bytes.length / header.blockSize)
    await moveBlocks(parts, moved)
    next.mapOffset = header.dataOffset
    next.dataOffset = header.dataOffset + moved * header.blockSize
    if (next.dataOffset > 0xffffffff) {
      throw blockError('EFBIG', 'Block map does not fit in front of the data')
    }
  }
  const entries = new DataView(bytes.buffer)
  let end = space.next - moved
  for (let index = 0; index < blocks; index++) {
    const block = index < old ? map.block(index) : undefined
    const fresh = index >= old && header.type === ImageType.static
    entries.setUint32(index * 4, block === undefined ? (fresh ? end++ : unallocated) : block - moved, true)
  }
  next.allocated = end
  if (header.type === ImageType.static) {
    const fileEnd = next.dataOffset + end * header.blockSize
    if (node.length < fileEnd) {
      await truncateNode(node, fileEnd, { exact: false, preallocation: 'off', zero: true })
    }
  }
  await node.write(next.mapOffset, bytes.length, bytes, 0, 0)
  await node.flush()
  await turnOver(parts, next)
  map.replace(next.mapOffset, bytes)
  space.reset()
}

/** Writes the header, which makes everything prepared for it count. */
async function turnOver({ header, file }: VdiParts, next: VdiHeader): Promise<void> {
  await file.node.write(0, headerBytes, next.bytes, 0, 0)
  await file.node.flush()
  header.bytes.set(next.bytes)
}

/** Copies the blocks numbered below `count` behind all others, and has the map refer to the copies. */
async function moveBlocks({ header, map, file, space }: VdiParts, count: number): Promise<void> {
  const { node } = file
  const { blockSize, dataOffset } = header
  const first = Math.max(space.next, count)
  const buffer = new Uint8Array(Math.min(copyBytes, blockSize))
  const places: [index: number, block: number][] = []
  let to = first
  for (let index = 0; index < header.blocks; index++) {
    const block = map.block(index)
    if (block === undefined || block >= count) {
      continue
    }
    for (let at = 0; at < blockSize; at += buffer.length) {
      const from = dataOffset + block * blockSize + at
      const inside = Math.max(0, Math.min(buffer.length, node.length - from))
      buffer.fill(0, inside)
      if (inside > 0) {
        await node.read(from, inside, buffer, 0, 0)
      }
      await node.write(dataOffset + to * blockSize + at, buffer.length, buffer, 0, 0)
    }
    places.push([index, to++])
  }
  space.takeUpTo(to)
  header.allocated = space.next
  await node.write(0, headerBytes, header.bytes.slice(), 0, 0)
  await node.flush()
  for (const [index, block] of places) {
    map.set(index, block)
  }
  await map.write(map.takeChanges())
  await node.flush()
}
