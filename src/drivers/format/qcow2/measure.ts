import { blockError, codeOf, errnoError } from '../../../errors/index.js'
import { imagePassword, keyBytesOf } from '../../../formatkit/crypto/index.js'
import { luksCreateOptions, luksPayloadOffset } from '../../../formatkit/luks/index.js'
import {
  type BlockNode,
  type MeasureContext,
  type MeasureResult,
  supportsPersistentBitmaps,
} from '../../../graph/index.js'
import { ChainStatus, chainStatus } from '../../../io/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { bitmapEntryBytes } from './bitmap-directory.js'
import { defaultClusterSize, extendedEntryBytes, maxL1Bytes, tableEntryBytes } from './constants.js'
import { type CreateValues, checkClusterSize, preallocationOf, refcountOrderOf } from './create-options.js'
import { refcountMetadata } from './refcount-size.js'

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit
}

/**
 * Bytes of an image of `size` guest bytes with all clusters allocated.
 *
 * @param size a multiple of `clusterSize`
 * @param l2EntryBytes 8, or 16 with extended L2 entries
 */
export function fullyAllocatedBytes(
  size: number,
  clusterSize: number,
  refcountOrder: number,
  l2EntryBytes: number,
): number {
  const perTable = clusterSize / l2EntryBytes
  const l2Tables = Math.ceil(size / clusterSize / perTable)
  const metadata = clusterSize + l2Tables * clusterSize + roundUp(l2Tables * tableEntryBytes, clusterSize)
  const { blocks, table } = refcountMetadata(
    (metadata + size) / clusterSize,
    clusterSize / tableEntryBytes,
    (clusterSize * 8) / 2 ** refcountOrder,
    false,
  )
  return metadata + (blocks + table) * clusterSize + size
}

function versionOf(values: CreateValues): 2 | 3 {
  const compat = values.compat
  if (compat === undefined || compat === '1.1') {
    return 3
  }
  if (compat === '0.10') {
    return 2
  }
  throw blockError('EINVAL', `Invalid compatibility level: '${compat}'`)
}

/** Bytes of the LUKS header. The secret is asked for as create does. */
function measureLuks(context: MeasureContext): number {
  const options = luksCreateOptions(context.options, 'encrypt.')
  const secret = context.options['encrypt.key-secret']
  imagePassword(context.layer, secret === undefined ? undefined : String(secret)).fill(0)
  return luksPayloadOffset(keyBytesOf(options))
}

/** How large an image would become: `required` for the data there is, and with everything allocated. */
export async function measure(context: MeasureContext): Promise<MeasureResult> {
  const values = context.options
  const clusterSize = Number(values.cluster_size ?? defaultClusterSize)
  const extendedL2 = values.extended_l2 === true
  checkClusterSize(clusterSize, extendedL2)
  const version = versionOf(values)
  const refcountOrder = refcountOrderOf(Number(values.refcount_bits ?? 16), version, 'compat=1.1')
  const preallocation = preallocationOf(values)
  if (preallocation === undefined) {
    throw blockError('EINVAL', `invalid parameter value: ${values.preallocation}`)
  }
  const luksBytes = values['encrypt.format'] === 'luks' ? roundUp(measureLuks(context), clusterSize) : 0
  const l2EntryBytes = extendedL2 ? extendedEntryBytes : tableEntryBytes
  let size = roundUp(Number(values.size ?? 0), clusterSize)
  if (Math.ceil(size / clusterSize / (clusterSize / l2EntryBytes)) * tableEntryBytes > maxL1Bytes) {
    throw blockError('EFBIG', 'The image size is too large (try using a larger cluster size)')
  }
  let dataBytes = 0
  const source = context.source
  if (source !== undefined) {
    size = roundUp(source.length, clusterSize)
    // Nobody knows how much of the source the backing file shares: count all of it.
    dataBytes = values.backing_file === undefined ? await countData(source, clusterSize) : size
  }
  if (preallocation === 'full' || preallocation === 'falloc') {
    dataBytes = size
  }
  const fullyAllocated = fullyAllocatedBytes(size, clusterSize, refcountOrder, l2EntryBytes)
  const result = {
    required: fullyAllocated - size + dataBytes + luksBytes,
    fullyAllocated: fullyAllocated + luksBytes,
  }
  return source === undefined || version < 3 || !supportsPersistentBitmaps(source)
    ? result
    : { ...result, bitmaps: bitmapBytes(source, clusterSize) }
}

/** Bytes that the persistent bitmaps of `source` would need, taken as fully allocated; inconsistent ones count as well. */
function bitmapBytes(source: BlockNode, clusterSize: number): number {
  let bytes = 0
  let directory = 0
  for (const bitmap of source.dirtyBitmaps) {
    if (bitmap.isStored) {
      const clusters = Math.ceil(Math.ceil(bitmap.size / bitmap.granularity) / 8 / clusterSize)
      bytes += clusters * clusterSize + roundUp(clusters * tableEntryBytes, clusterSize)
      directory += bitmapEntryBytes(new TextEncoder().encode(bitmap.name).length)
    }
  }
  return bytes + roundUp(directory, clusterSize)
}

/** Bytes of the target's clusters that hold data of `source` or of its backing chain. */
async function countData(source: BlockNode, clusterSize: number): Promise<number> {
  const slice = new TimeSlice()
  const status = new ChainStatus()
  const length = source.length
  let data = 0
  for (let offset = 0; offset < length; ) {
    try {
      await chainStatus(source, undefined, offset, length - offset, 'zero', status)
    } catch (error) {
      throw errnoError(codeOf(error), 'Unable to get block status', { cause: error })
    }
    let next = offset + status.bytes
    if (!status.zero && status.data && status.allocated) {
      next = roundUp(next, clusterSize)
      data += next - (offset - (offset % clusterSize))
    }
    offset = next
    const wait = slice.breathe()
    if (wait !== undefined) {
      await wait
    }
  }
  return data
}
