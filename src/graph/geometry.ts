import { blockError, errnoError, isBlockError, prefixed } from '../errors/index.js'
import { defaultLimits, maxLength, mergeLimits } from '../io/index.js'
import type { DriverState } from './driver.js'
import { Role } from './flags.js'
import type { BlockNode } from './node.js'

/** Makes `state` what the node is from now on. */
export function installState(node: BlockNode, state: DriverState): void {
  node.state = state
  node.map = state.map
  node.direct = state.direct
  node.flushPath = state.flushPath
  node.debug = state.debug
  node.supportedWriteFlags = state.supportedWriteFlags ?? 0
  node.supportedZeroFlags = state.supportedZeroFlags ?? 0
  node.clusterSize = state.clusterSize ?? 0
}

/** Takes the driver's length over, rounded up to a sector (seed row 52). */
export function refreshLength(node: BlockNode): void {
  let length: number | undefined
  try {
    length = node.state?.length
  } catch (error) {
    throw isBlockError(error)
      ? errnoError(error.code, 'Could not refresh total sector count', { cause: error })
      : error
  }
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
