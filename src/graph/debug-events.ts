import { ioError } from '../errors/index.js'
import type { DebugHooks } from './driver-operations.js'
import type { BlockNode } from './node.js'

/** The hooks of the first node with any, going down primary children from `node` (seed row 113). */
function hooksBelow(node: BlockNode): DebugHooks | undefined {
  for (let at: BlockNode | undefined = node; at !== undefined; at = at.primary) {
    if (at.state?.debug !== undefined) {
      return at.state.debug
    }
  }
  return undefined
}

function hooksOrThrow(node: BlockNode): DebugHooks {
  const hooks = hooksBelow(node)
  if (hooks === undefined) {
    throw ioError('ENOTSUP', { node: node.name })
  }
  return hooks
}

/**
 * The next request below `node` that reaches `event` stops there under the name `tag`.
 *
 * @throws BlockError ENOTSUP if nothing below debugs, ENOENT for an unknown event
 */
export function setBreakpoint(node: BlockNode, event: string, tag: string): void {
  hooksOrThrow(node).breakpoint(event, tag)
}

/**
 * Forgets the breakpoints called `tag` and resumes what is stopped there.
 *
 * @throws BlockError ENOTSUP if nothing below debugs, ENOENT if there are none
 */
export function removeBreakpoint(node: BlockNode, tag: string): void {
  hooksOrThrow(node).removeBreakpoint(tag)
}

/**
 * Lets the request that stopped under `tag` go on.
 *
 * @throws BlockError ENOTSUP if nothing below debugs, ENOENT if no request is stopped there
 */
export function resumeRequest(node: BlockNode, tag: string): void {
  hooksOrThrow(node).resume(tag)
}

/** Whether a request is stopped under `tag`; false if nothing below debugs. */
export function isSuspended(node: BlockNode, tag: string): boolean {
  return hooksBelow(node)?.isSuspended(tag) ?? false
}
