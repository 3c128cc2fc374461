import { alignUp, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { blockError, ioError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import { type BlockChild, hasZeroInit, type TruncateOptions, truncateNode } from '../../../graph/index.js'
import { type Bat, maxTableBytes } from './bat.js'
import type { DiskChanges } from './changes.js'
import { crc32c } from './crc32c.js'
import {
  BlockState,
  Guid,
  logSectorBytes,
  maxDiskBytes,
  mebibyte,
  regionOffsets,
  sameBytes,
  tableBytes,
  tableEntries,
} from './layout.js'
import { type DiskParameters, isPresent, type Regions } from './metadata.js'
import { MetadataEdit, setDiskLength } from './metadata-edit.js'

export interface ResizeContext {
  readonly file: BlockChild
  readonly bat: Bat
  readonly disk: DiskParameters
  readonly regions: Regions
  readonly changes: DiskChanges
}

/** Entries of the region table that share its first sector with the checksum. */
const entriesInFirstSector = 15
const sector = 512

/**
 * Makes a disk longer. What the table says of the new blocks is durable before the metadata has the new
 * length; both go through the log. A table that has to grow beyond its region gets another region at the
 * end of the file, and the old one's place is lost.
 *
 * @throws BlockError ENOTSUP for a shorter length or a preallocation mode, EFBIG beyond 64 TiB
 */
export async function growDisk(context: ResizeContext, length: number, how: TruncateOptions): Promise<void> {
  const { disk, changes } = context
  if (how.preallocation !== 'off') {
    throw blockError('ENOTSUP', `Unsupported preallocation mode '${how.preallocation}'`)
  }
  if (length < disk.diskBytes) {
    throw blockError('ENOTSUP', 'Shrinking of VHDX images is not supported')
  }
  const bytes = alignUp(length, disk.sectorBytes)
  if (bytes > maxDiskBytes) {
    throw blockError('EFBIG', 'Image size too large; max of 64TB')
  }
  if (bytes === disk.diskBytes) {
    return
  }
  await changes.announce()
  await changes.mutex.run(() => grow(context, bytes))
}

async function grow(context: ResizeContext, length: number): Promise<void> {
  const { file, bat, disk, regions, changes } = context
  await changes.writeBack()
  const old = disk.diskBytes
  const count = tableEntries(length, disk.blockBytes, disk.ratio, disk.parent !== undefined)
  const wanted = alignUp(count * 8, logSectorBytes)
  if (wanted > maxTableBytes) {
    throw blockError('EFBIG', `VHDX block tables of more than ${maxTableBytes} bytes are not supported`)
  }
  const lastBlock = Math.ceil(old / disk.blockBytes) - 1
  const entryOf = (block: number): number => block + Math.floor(block / disk.ratio)
  await zeroTail(context, lastBlock, entryOf(lastBlock))
  const isFixed = disk.leaveAllocated && lastBlock >= 0 && isPresent(bat.state(entryOf(lastBlock)))
  const known = bat.entries
  if (count * 8 > regions.bat.length) {
    await moveTable(context, count)
  } else {
    bat.extend(count, wanted)
    for (let entry = known; entry < count; entry++) {
      bat.set(entry, BlockState.notPresent, 0)
    }
  }
  if (isFixed) {
    const blocks = Math.ceil(length / disk.blockBytes)
    const bytes = (blocks - lastBlock - 1) * disk.blockBytes
    const place = await changes.grow(bytes)
    if (!hasZeroInit(file.node)) {
      await file.node.writeZeroes(place, bytes, 0)
    }
    for (let block = lastBlock + 1; block < blocks; block++) {
      const at = place + (block - lastBlock - 1) * disk.blockBytes
      bat.set(entryOf(block), BlockState.fullyPresent, at)
    }
  }
  await changes.writeBack()
  const edit = await MetadataEdit.begin(file, regions.metadata)
  await setDiskLength(edit, length)
  await changes.log.write(edit.writes())
  disk.diskBytes = length
}

/** What stands in the last block behind the end of the disk becomes zeroes, all of it within the file. */
async function zeroTail({ file, bat, disk }: ResizeContext, block: number, entry: number): Promise<void> {
  const inside = disk.diskBytes - block * disk.blockBytes
  if (block < 0 || inside === disk.blockBytes || !isPresent(bat.state(entry))) {
    return
  }
  const { node } = file
  const from = bat.place(entry) + inside
  const end = bat.place(entry) + disk.blockBytes
  const there = Math.min(end, node.length)
  if (from < there) {
    await node.writeZeroes(from, there - from, 0)
  }
  if (node.length < end) {
    await truncateNode(node, end, { exact: false, preallocation: 'off', zero: true })
  }
}

/** Gives the table a new region that holds `count` entries. The region tables change when it is durable. */
async function moveTable({ file, bat, regions, changes }: ResizeContext, count: number): Promise<void> {
  const { node } = file
  const bytes = new Uint8Array(tableBytes)
  await readPadded(node, regionOffsets[0], bytes)
  let index = 0
  while (
    index < entriesInFirstSector &&
    !sameBytes(bytes.subarray(16 + index * 32, 32 + index * 32), Guid.bat)
  ) {
    index++
  }
  if (index === entriesInFirstSector) {
    throw ioError('ENOTSUP')
  }
  const length = alignUp(count * 8, mebibyte)
  const offset = await changes.grow(length)
  const moved = new Uint8Array(alignUp(count * 8, logSectorBytes))
  moved.set(bat.bytes.subarray(0, bat.entries * 8))
  await node.write(offset, moved.length, moved, 0, 0)
  // No entry of the log refers to the old place any more.
  await changes.log.clear()
  await node.flush()
  writeU64LE(bytes, 16 + index * 32 + 16, offset)
  writeU32LE(bytes, 16 + index * 32 + 24, length)
  writeU32LE(bytes, 4, 0)
  writeU32LE(bytes, 4, crc32c(bytes, 4))
  // Everything that changes is in the first sector, which reaches the disk whole.
  for (const at of [regionOffsets[1], regionOffsets[0]]) {
    await node.write(at, sector, bytes, 0, 0)
    await node.flush()
  }
  bat.replace(moved, count, offset)
  const region = { offset, length }
  regions.all.splice(regions.all.indexOf(regions.bat), 1, region)
  regions.bat = region
}
