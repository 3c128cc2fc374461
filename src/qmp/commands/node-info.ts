import { isBlockError } from '../../errors/index.js'
import {
  type Backend,
  type BlockNode,
  deviceInfo,
  refreshFilename,
  writeThreshold,
} from '../../graph/index.js'
import { imageInfo } from '../../image/index.js'
import { throttleBuckets } from '../../io/index.js'
import type { TypeOf } from '../schema/types.js'

type Result<N extends string> = TypeOf<N>
type Mutable<T> = { -readonly [K in keyof T]: T[K] }

/** The node below in the chain: what a filter filters, or the backing node. */
function below(node: BlockNode): BlockNode | undefined {
  return (node.filteredNode as BlockNode | undefined) ?? node.backing
}

/** QAPI `ImageInfo` of a node, with those below it unless `flat`. */
async function chainInfo(
  node: BlockNode,
  flat: boolean,
): Promise<{ image: Result<'ImageInfo'>; depth: number }> {
  const own = (await imageInfo(node)) as unknown as Mutable<Result<'ImageInfo'>>
  const next = flat ? undefined : below(node)
  if (next === undefined) {
    return { image: own, depth: 0 }
  }
  const { image, depth } = await chainInfo(next, flat)
  own['backing-image'] = image
  return { image: own, depth: depth + 1 }
}

const throttleZeroes = { bps: 0, bps_rd: 0, bps_wr: 0, iops: 0, iops_rd: 0, iops_wr: 0 }

/** The limits of a device as QAPI has them: peaks only where there are some. */
function throttleInfo(backend: Backend | undefined): typeof throttleZeroes {
  const group = backend?.throttleGroup
  const limits = group === undefined ? undefined : backend?.layer.throttleGroups.find(group)?.limits
  if (limits === undefined) {
    return throttleZeroes
  }
  const result: Record<string, number | string | undefined> = { ...throttleZeroes, group }
  for (const name of throttleBuckets) {
    const [unit = '', direction = ''] = name.split('-')
    const suffix = { total: '', read: '_rd', write: '_wr' }[direction] ?? ''
    const { average, max, burstLength } = limits.buckets[name]
    result[unit + suffix] = average
    if (max !== 0) {
      result[`${unit}${suffix}_max`] = max
      result[`${unit}${suffix}_max_length`] = burstLength
    }
  }
  if (limits.iopsSize !== 0) {
    result.iops_size = limits.iopsSize
  }
  return result as unknown as typeof throttleZeroes
}

/** An unsigned number of 64 bits where QAPI has a signed one. The largest of them is 2^64 after rounding. */
function asSigned(value: number): number {
  return value >= 2 ** 64 ? -1 : value >= 2 ** 63 ? value - 2 ** 64 : value
}

/**
 * QAPI `BlockDeviceInfo`.
 *
 * @param backend the device whose image it is, if any
 * @param flat without the images below
 */
export async function nodeInfo(
  node: BlockNode,
  { backend, flat = false }: { readonly backend?: Backend | undefined; readonly flat?: boolean } = {},
): Promise<Result<'BlockDeviceInfo'>> {
  refreshFilename(node)
  const { image, depth } = await chainInfo(node, flat)
  const bitmaps = node.dirtyBitmaps.query()
  const backing = node.backing
  return {
    file: node.filename,
    'node-name': node.name,
    ro: node.readOnly,
    drv: node.driver?.name ?? '',
    ...(backing === undefined ? {} : { backing_file: backing.filename }),
    backing_file_depth: depth,
    encrypted: image.encrypted === true,
    detect_zeroes: node.detectZeroes,
    ...throttleInfo(backend),
    image,
    cache: {
      writeback: backend?.writeCache ?? true,
      direct: node.options.get('cache.direct') === true || node.options.get('cache.direct') === 'on',
      'no-flush': node.options.get('cache.no-flush') === true || node.options.get('cache.no-flush') === 'on',
    },
    write_threshold: asSigned(writeThreshold(node)),
    ...(bitmaps.length === 0 ? {} : { 'dirty-bitmaps': bitmaps }),
  }
}

/** QAPI `BlockInfo` of a device with a name. */
export async function blockInfo(backend: Backend): Promise<Result<'BlockInfo'>> {
  const node = backend.root?.node
  return {
    ...(deviceInfo(backend) as unknown as Result<'BlockInfo'>),
    ...(node === undefined ? {} : { inserted: await nodeInfo(node, { backend }) }),
  }
}

/** A node that cannot be described is left out of lists. */
export async function describable<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise
  } catch (error) {
    if (isBlockError(error)) {
      return undefined
    }
    throw error
  }
}
