import { blockError, codeOf, errnoError } from '../errors/index.js'
import { maxLength } from '../io/index.js'
import { type CheckFix, type CheckResult, isProtocolLevel, type TruncateOptions } from './driver.js'
import { refreshLength, refreshLimits } from './geometry.js'
import type { BlockNode } from './node.js'

/**
 * Changes the length of a node (seed row 96). A grown part reads as zeroes if `how.zero`, and also
 * where a longer backing file would otherwise show through.
 */
export async function truncateNode(node: BlockNode, length: number, how: TruncateOptions): Promise<void> {
  if (node.driver === undefined) {
    throw blockError('ENOMEDIUM', 'No medium inserted')
  }
  if (length < 0) {
    throw blockError('EINVAL', 'Image size cannot be negative')
  }
  if (length > maxLength) {
    throw blockError('EFBIG', `Image size ${length} exceeds the limit of ${maxLength} bytes`)
  }
  if (node.readOnly) {
    throw blockError('EACCES', 'Image is read-only')
  }
  const filtered = node.isFilter ? node.filteredNode : undefined
  if (node.state?.truncate === undefined && filtered === undefined) {
    throw blockError('ENOTSUP', 'Image format driver does not support resize')
  }
  const oldLength = node.length
  const grown = Math.max(0, length - oldLength)
  const request = node.requests.begin('truncate', Math.min(length, oldLength), Math.max(grown, 1))
  try {
    node.requests.makeSerialising(request, 1)
    const conflict = node.requests.waitConflicts(request)
    if (conflict !== undefined) {
      await conflict
    }
    await checkBitmaps(node)
    // What lies below a longer backing file must not appear in the new part.
    const backing = node.backing
    const mustZero = grown > 0 && backing !== undefined && oldLength < backing.length
    const options = mustZero ? { ...how, zero: true } : how
    if (node.state?.truncate !== undefined) {
      const wait = node.state.truncate(length, options)
      if (wait !== undefined) {
        await wait
      }
    } else if (filtered !== undefined) {
      await truncateNode(filtered as BlockNode, length, options)
    }
    refreshNodeLength(node)
    node.flushState.writeGeneration++
  } finally {
    node.requests.end(request)
  }
}

/** Bitmaps that must not change do not let the length change either. */
async function checkBitmaps(node: BlockNode): Promise<void> {
  node.dirtyBitmaps.assertCanResize()
  try {
    const held = node.dirtyTracker?.beforeWrite()
    if (held !== undefined) {
      await held
    }
  } catch (error) {
    throw errnoError(codeOf(error), 'Failed to prepare request for truncation', { cause: error })
  }
}

/** Takes over the length that the driver has now, and tells those above. */
export function refreshNodeLength(node: BlockNode): void {
  refreshLength(node)
  refreshLimits(node)
  node.dirtyTracker?.resized(node.length)
  notifyResize(node)
}

/** Tells users and filters above that the length of `node` has changed. */
export function notifyResize(node: BlockNode): void {
  node.onGrow?.()
  for (const edge of node.parents) {
    const parent = edge.parent.parentNode
    if (parent?.isFilter === true) {
      refreshLength(parent)
      parent.dirtyTracker?.resized(parent.length)
      notifyResize(parent)
    }
  }
}

/** Bytes the node occupies outside (seed row 95): the driver's answer, else the sum over data, metadata and filtered children. */
export async function allocatedSize(node: BlockNode): Promise<number> {
  if (node.driver === undefined) {
    throw blockError('ENOMEDIUM', 'No medium found')
  }
  if (node.state?.allocatedSize !== undefined) {
    return await node.state.allocatedSize()
  }
  if (isProtocolLevel(node.driver)) {
    throw blockError('ENOTSUP', 'Operation not supported')
  }
  let sum = 0
  for (const child of node.childNodes) {
    sum += await allocatedSize(child)
  }
  return sum
}

/** Checks the image's consistency (seed row 93). The image may have errors even though this succeeds. */
export async function checkNode(node: BlockNode, fix: CheckFix, signal?: AbortSignal): Promise<CheckResult> {
  if (node.driver === undefined) {
    throw blockError('ENOMEDIUM', 'No medium found')
  }
  if (node.state?.check === undefined) {
    throw blockError('ENOTSUP', 'This image format does not support checks')
  }
  return await node.state.check(fix, signal)
}

/** Whether a fresh image of this kind reads as zeroes; never with a backing file (seed row 97). */
export function hasZeroInit(node: BlockNode): boolean {
  if (node.driver === undefined || node.backing !== undefined) {
    return false
  }
  if (node.state?.hasZeroInit !== undefined) {
    return node.state.hasZeroInit
  }
  const filtered = node.isFilter ? (node.filteredNode as BlockNode | undefined) : undefined
  return filtered === undefined ? false : hasZeroInit(filtered)
}

/** Logical and physical block size in bytes, if the node or what it filters knows (seed row 18). */
export function probeBlockSizes(node: BlockNode): { logical: number; physical: number } {
  const sizes = node.state?.probeBlockSizes?.()
  if (sizes !== undefined) {
    return sizes
  }
  const filtered = node.isFilter ? (node.filteredNode as BlockNode | undefined) : undefined
  if (filtered === undefined) {
    throw blockError('ENOTSUP', 'Operation not supported')
  }
  return probeBlockSizes(filtered)
}

/** Whether a medium is there (seed row 112): the driver's answer, else that of all children. */
export function isInserted(node: BlockNode): boolean {
  if (node.driver === undefined) {
    return false
  }
  return node.state?.inserted ?? node.children.every((child) => isInserted(child.node))
}
