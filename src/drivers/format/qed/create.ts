import { blockError } from '../../../errors/index.js'
import type { BlockNode, CreateContext } from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'
import type { OptionsOf } from '../../../options/index.js'
import {
  clusterRange,
  headerBytes,
  isClusterSize,
  isTableSize,
  makeHeader,
  mappableBytes,
  maxBackingNameBytes,
  sectorBytes,
  tableRange,
} from './header.js'
import type { qedCreateOptions } from './options.js'

/**
 * Creates an image: header, name of the backing file, and an empty first table.
 *
 * @throws BlockError with QEMU's text
 */
export async function create(context: CreateContext): Promise<void> {
  const given: OptionsOf<typeof qedCreateOptions> = context.options
  const clusterSize = given.cluster_size ?? clusterRange.default
  const tableClusters = given.table_size ?? tableRange.default
  if (!isClusterSize(clusterSize)) {
    const { min, max } = clusterRange
    throw blockError('EINVAL', `QED cluster size must be within range [${min}, ${max}] and power of 2`)
  }
  if (!isTableSize(tableClusters)) {
    const { min, max } = tableRange
    throw blockError('EINVAL', `QED table size must be within range [${min}, ${max}] and power of 2`)
  }
  const size = Math.ceil((given.size ?? 0) / sectorBytes) * sectorBytes
  const most = mappableBytes(clusterSize, tableClusters)
  if (size > most) {
    throw blockError(
      'EINVAL',
      `QED image size must be a non-zero multiple of cluster size and less than ${BigInt(most)} bytes`,
    )
  }
  if (size > maxLength) {
    throw blockError('EFBIG', `Image size ${size} is above ${maxLength}`)
  }
  const name = given.backing_file === undefined ? undefined : new TextEncoder().encode(given.backing_file)
  if (name !== undefined && name.length > maxBackingNameBytes) {
    throw blockError('EINVAL', 'Backing file name too long')
  }
  const file = await context.createFile(0)
  const tableBytes = tableClusters * clusterSize
  const wait = file.writeZeroes(clusterSize, tableBytes, 0)
  if (wait !== undefined) {
    await wait
  }
  if (name !== undefined) {
    await write(file, headerBytes, name)
  }
  const header = makeHeader({
    size,
    clusterSize,
    tableClusters,
    backingBytes: name?.length,
    backingIsRaw: given.backing_fmt === 'raw',
  })
  // Last: until then it is no image.
  await write(file, 0, header.bytes)
}

async function write(file: BlockNode, offset: number, bytes: Uint8Array): Promise<void> {
  const wait = file.write(offset, bytes.length, bytes, 0, 0)
  if (wait !== undefined) {
    await wait
  }
}
