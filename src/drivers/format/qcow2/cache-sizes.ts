import { blockError } from '../../../errors/index.js'
import type { OptionsOf } from '../../../options/index.js'
import { minClusterBits, tableEntryBytes } from './constants.js'
import type { qcow2RuntimeOptions } from './options.js'

/** Sizes of the metadata caches. */
export interface CacheSizes {
  /** Bytes of an L2 cache entry: a slice of an L2 table. */
  readonly l2EntryBytes: number
  /** L2 cache entries, at least 2. */
  readonly l2Entries: number
  /** Refcount cache entries, at least 4; each is a cluster. */
  readonly refcountEntries: number
}

type CacheOptions = Pick<
  OptionsOf<typeof qcow2RuntimeOptions>,
  'cache-size' | 'l2-cache-size' | 'l2-cache-entry-size' | 'refcount-cache-size'
>

const defaultMaxL2CacheBytes = 32 * 1024 * 1024
const minL2Entries = 2
const minRefcountEntries = 4
/** Slice size if the cache does not cover the disk: small reads cost less and evict less. */
const smallSliceBytes = 4096
const maxEntries = 0x7fffffff

/**
 * Cache sizes for an image (qemu-surface 8): the L2 cache covers the whole disk up to 32 MiB unless
 * options say otherwise.
 *
 * @param size guest bytes
 * @param entryBytes bytes of an L2 entry
 * @throws EINVAL with QEMU's texts
 */
export function cacheSizes(
  options: CacheOptions,
  size: number,
  clusterSize: number,
  entryBytes = tableEntryBytes,
): CacheSizes {
  const combined = options['cache-size']
  const l2Setting = options['l2-cache-size']
  const refcountSetting = options['refcount-cache-size']
  const wholeDisk = Math.ceil((Math.ceil(size / clusterSize) * entryBytes) / clusterSize) * clusterSize
  let l2Bytes = Math.min(wholeDisk, l2Setting ?? defaultMaxL2CacheBytes)
  let refcountBytes = refcountSetting ?? 0
  if (combined !== undefined) {
    if (l2Setting !== undefined && refcountSetting !== undefined) {
      throw blockError(
        'EINVAL',
        'cache-size, l2-cache-size and refcount-cache-size may not be set at the same time',
      )
    }
    if (l2Setting !== undefined && l2Setting > combined) {
      throw blockError('EINVAL', 'l2-cache-size may not exceed cache-size')
    }
    if (refcountBytes > combined) {
      throw blockError('EINVAL', 'refcount-cache-size may not exceed cache-size')
    }
    const minRefcountBytes = minRefcountEntries * clusterSize
    if (l2Setting !== undefined) {
      refcountBytes = combined - l2Bytes
    } else if (refcountSetting !== undefined) {
      l2Bytes = combined - refcountBytes
    } else if (combined >= wholeDisk + minRefcountBytes) {
      l2Bytes = wholeDisk
      refcountBytes = combined - l2Bytes
    } else {
      refcountBytes = Math.min(combined, minRefcountBytes)
      l2Bytes = combined - refcountBytes
    }
  }
  let l2EntryBytes = options['l2-cache-entry-size']
  if (l2EntryBytes === undefined) {
    l2EntryBytes = l2Bytes < wholeDisk ? Math.min(clusterSize, smallSliceBytes) : clusterSize
  } else if (
    l2EntryBytes < 1 << minClusterBits ||
    l2EntryBytes > clusterSize ||
    !Number.isInteger(Math.log2(l2EntryBytes))
  ) {
    throw blockError(
      'EINVAL',
      `L2 cache entry size must be a power of two between ${1 << minClusterBits} and the cluster size (${clusterSize})`,
    )
  }
  const l2Entries = Math.max(minL2Entries, Math.floor(l2Bytes / l2EntryBytes))
  if (l2Entries > maxEntries) {
    throw blockError('EINVAL', 'L2 cache size too big')
  }
  const refcountEntries = Math.max(minRefcountEntries, Math.floor(refcountBytes / clusterSize))
  if (refcountEntries > maxEntries) {
    throw blockError('EINVAL', 'Refcount cache size too big')
  }
  return { l2EntryBytes, l2Entries, refcountEntries }
}
