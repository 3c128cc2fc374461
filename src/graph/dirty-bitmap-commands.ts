import { isPowerOfTwo } from '../bytes/index.js'
import { blockError, errnoError, isBlockError } from '../errors/index.js'
import type { DirtyBitmap } from './dirty-bitmap.js'
import { driverInfo } from './driver-info.js'
import type { BitmapStore } from './driver-operations.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'
import { deviceOrNodeName } from './op-blockers.js'

/** What users do with dirty bitmaps: the `block-dirty-bitmap-*` commands, for every front end. */

const minGranularity = 512
const defaultGranularity = 65536

/** Granularity of a bitmap of `node` if the user has no wish: its cluster size within 4 KiB and 64 KiB (seed row 109). */
export function defaultBitmapGranularity(node: BlockNode): number {
  const clusterSize = driverInfo(node)?.clusterSize ?? 0
  return clusterSize === 0 ? defaultGranularity : Math.min(defaultGranularity, Math.max(4096, clusterSize))
}

/** Whether bitmaps can be kept in the image of `node`. */
export function supportsPersistentBitmaps(node: BlockNode): boolean {
  return node.state?.bitmapStore?.supported === true
}

/**
 * A bitmap by the names of its node and its own.
 *
 * @throws BlockError `Node '%s' not found`, `Dirty bitmap '%s' not found`
 */
export function lookupDirtyBitmap(layer: BlockLayer, nodeName: string, name: string): DirtyBitmap {
  let node: BlockNode
  try {
    node = layer.lookup(nodeName, nodeName)
  } catch (error) {
    if (isBlockError(error)) {
      throw blockError(error.code, `Node '${nodeName}' not found`, { cause: error })
    }
    throw error
  }
  return findDirtyBitmap(node, name)
}

/** @throws BlockError `Dirty bitmap '%s' not found` */
export function findDirtyBitmap(node: BlockNode, name: string): DirtyBitmap {
  const bitmap = node.dirtyBitmaps.find(name)
  if (bitmap === undefined) {
    throw blockError('ENOENT', `Dirty bitmap '${name}' not found`)
  }
  return bitmap
}

export interface AddDirtyBitmap {
  readonly name: string
  /** Bytes; default {@link defaultBitmapGranularity}. */
  readonly granularity?: number | undefined
  /** Keep it in the image. */
  readonly persistent?: boolean | undefined
  /** Do not record writes yet. */
  readonly disabled?: boolean | undefined
}

function storeOf(node: BlockNode): BitmapStore {
  const store = node.state?.bitmapStore
  if (store === undefined) {
    const code = node.driver === undefined ? 'ENOMEDIUM' : 'ENOTSUP'
    throw errnoError(code, `Can't store persistent bitmaps to ${deviceOrNodeName(node)}`)
  }
  return store
}

/**
 * `block-dirty-bitmap-add`.
 *
 * @throws BlockError `Bitmap name cannot be empty`, `Granularity must be power of 2 and at least 512`,
 *   `Bitmap already exists: %s`, or why the image cannot hold it
 */
export async function addDirtyBitmap(node: BlockNode, options: AddDirtyBitmap): Promise<DirtyBitmap> {
  const { name, persistent = false, disabled = false } = options
  if (name === '') {
    throw blockError('EINVAL', 'Bitmap name cannot be empty')
  }
  const granularity = options.granularity ?? defaultBitmapGranularity(node)
  if (granularity < minGranularity || !isPowerOfTwo(granularity)) {
    throw blockError('EINVAL', 'Granularity must be power of 2 and at least 512')
  }
  if (persistent) {
    await storeOf(node).checkNew(name, granularity)
  }
  const bitmap = node.dirtyBitmaps.create({ granularity, name })
  if (disabled) {
    bitmap.disable()
  }
  bitmap.persistent = persistent
  return bitmap
}

/** `block-dirty-bitmap-remove`: also from the image. @throws BlockError if it is busy or readonly */
export async function removeDirtyBitmap(bitmap: DirtyBitmap): Promise<void> {
  bitmap.check({ inconsistent: true })
  if (bitmap.isStored && bitmap.name !== undefined) {
    await bitmap.node.state?.bitmapStore?.remove(bitmap.name)
  }
  bitmap.release()
}

/** `block-dirty-bitmap-clear`. Returns what was there. @throws BlockError if it cannot be changed */
export function clearDirtyBitmap(bitmap: DirtyBitmap): ReturnType<DirtyBitmap['clear']> {
  bitmap.check()
  return bitmap.clear()
}

/** `block-dirty-bitmap-enable`. @throws BlockError if it is busy or inconsistent */
export function enableDirtyBitmap(bitmap: DirtyBitmap): void {
  bitmap.check({ readonly: true })
  bitmap.enable()
}

/** `block-dirty-bitmap-disable`. @throws BlockError if it is busy or inconsistent */
export function disableDirtyBitmap(bitmap: DirtyBitmap): void {
  bitmap.check({ readonly: true })
  bitmap.disable()
}

/**
 * `block-dirty-bitmap-merge`: adds all `sources`, which may be on other nodes, to `target`, or none of
 * them if one cannot be. Returns what was there before.
 *
 * @throws BlockError if one of them cannot be used, or its size differs
 */
export function mergeDirtyBitmaps(
  target: DirtyBitmap,
  sources: readonly DirtyBitmap[],
): ReturnType<DirtyBitmap['merge']> {
  const union = target.node.dirtyBitmaps.create({ granularity: target.granularity, size: target.size })
  try {
    for (const source of sources) {
      union.merge(source)
    }
    return target.merge(union)
  } finally {
    union.release()
  }
}
