import { blockError, prefixed } from '../errors/index.js'
import { defaultLimits, maxLength, mergeLimits } from '../io/index.js'
import { Role } from './flags.js'
import type { BlockNode } from './node.js'

/** Takes the driver's length over, rounded up to a sector (seed row 52). */
export function refreshLength(node: BlockNode): void {
  const length = node.state?.length
  if (length === undefined) {
    return
  }
  if (!(length >= 0 && length <= maxLength)) {
    const error = blockError('EFBIG', `Image size ${length} exceeds the limit of ${maxLength} bytes`)
    throw prefixed(error, 'Could not refresh total sector count: ')
  }
  node.length = Math.ceil(length / 512) * 512
}

/** Merges the children's limits and lets the driver tighten them. */
export function refreshLimits(node: BlockNode): void {
  const limits = defaultLimits(node.host.pageSize)
  for (const child of node.children) {
    if ((child.role & (Role.data | Role.filtered | Role.cow)) !== 0) {
      mergeLimits(limits, child.node.limits)
    }
  }
  node.state?.refreshLimits?.(limits)
  node.limits = limits
}
