import { blockError } from '../errors/index.js'
import { setBacking } from './backing.js'
import { drain } from './drain.js'
import { type EdgeChange, repointEdge } from './edge-change.js'
import { Role } from './flags.js'
import { refreshLength, refreshLimits } from './geometry.js'
import { isBelow } from './lifecycle.js'
import type { BlockNode } from './node.js'
import { checkNotBlocked } from './op-blockers.js'
import { settlePermissions } from './permissions.js'

/**
 * Moves every parent edge of `from` to `to`, except edges that would close a loop because they come
 * from `to` or below it (seed row 72). Requests in flight finish first. Permissions are checked for
 * the new graph; if they conflict, everything is as before and the error is thrown.
 */
export async function replaceNode(from: BlockNode, to: BlockNode): Promise<void> {
  if (from === to) {
    return
  }
  const section = await drain([from, to])
  try {
    await replaceDrained(from, to)
  } finally {
    section.end()
  }
}

async function replaceDrained(from: BlockNode, to: BlockNode): Promise<void> {
  const changes = await from.layer.graphLock.run(async () => {
    const made: EdgeChange[] = []
    try {
      for (const edge of [...from.parents]) {
        const parent = edge.parent.parentNode
        if (parent === undefined || !isBelow(to, parent)) {
          made.push(repointEdge(edge, to))
        }
      }
      await settlePermissions([to, from])
    } catch (error) {
      for (const change of made.reverse()) {
        change.undo()
      }
      throw error
    }
    return made
  })
  refreshAbove(to)
  for (const change of changes) {
    await change.finish()
  }
}

/** What the parents of `node` know of its length and limits is no longer true. */
function refreshAbove(node: BlockNode): void {
  for (const edge of node.parents) {
    const parent = edge.parent.parentNode
    if (parent !== undefined) {
      if (parent.isFilter || parent.state?.variableLength === true) {
        refreshLength(parent)
      }
      refreshLimits(parent)
      refreshAbove(parent)
    }
  }
}

/**
 * Puts `overlay` on top of `node`: it takes over the parents and has `node` as its backing file
 * (seed row 73). The caller keeps its reference to `overlay`. `overlay` must have no backing yet
 * and nobody using it.
 */
export async function appendNode(overlay: BlockNode, node: BlockNode): Promise<void> {
  if (overlay.backing !== undefined) {
    throw new Error('the new top node already has a backing file')
  }
  if (overlay.parents.length > 0) {
    throw new Error('the new top node is already in use')
  }
  node.references++
  try {
    await setBacking(overlay, node)
    try {
      await replaceNode(node, overlay)
    } catch (error) {
      await setBacking(overlay, undefined)
      throw error
    }
  } finally {
    await node.layer.unref(node)
  }
}

/**
 * Puts `to` in the place of `from` in a backing chain (seed row 74): parents move, and a new node
 * without a backing file that is not already below the old one takes over the old one's.
 */
export async function replaceInBackingChain(from: BlockNode, to: BlockNode): Promise<void> {
  const backing = from.backing
  const below = isBelow(from, to)
  await replaceNode(from, to)
  if (to.backing === undefined && !below && backing !== undefined && from.driver !== undefined) {
    await setBacking(to, backing)
    await setBacking(from, undefined)
  }
}

/** Takes the node's name away: it can no longer be referred to (seed row 75). Idempotent. */
export function makeAnonymous(node: BlockNode): void {
  node.layer.names.release(node)
  node.name = ''
}

/** Whether `candidate` is the topmost node below (or at) `node` that is not a filter (seed row 76). */
export function recurseIsFirstNonFilter(node: BlockNode, candidate: BlockNode): boolean {
  if (node.driver === undefined) {
    return false
  }
  if (!node.isFilter) {
    return node === candidate
  }
  return node.children
    .filter((child) => (child.role & (Role.filtered | Role.data)) !== 0)
    .some((child) => recurseIsFirstNonFilter(child.node, candidate))
}

/** Whether `candidate` is the topmost non-filter of any root of the layer. */
export function isFirstNonFilter(candidate: BlockNode): boolean {
  for (const node of candidate.layer.nodes) {
    const isRoot = node.parents.every((edge) => edge.parent.parentNode === undefined)
    if (isRoot && recurseIsFirstNonFilter(node, candidate)) {
      return true
    }
  }
  return false
}

/** The node called `name`, if a mirror of `parent` may replace it (seed row 77). */
export function checkToReplaceNode(parent: BlockNode, name: string): BlockNode {
  const node = parent.layer.findNode(name)
  if (node === undefined) {
    throw blockError('ENODEV', `Failed to find node with node-name='${name}'`)
  }
  checkNotBlocked(node, 'replace')
  if (!recurseIsFirstNonFilter(parent, node)) {
    throw blockError(
      'EINVAL',
      `Cannot replace '${name}' by a node mirrored from '${parent.name}', because it cannot be ` +
        'guaranteed that doing so would not lead to an abrupt change of visible data',
    )
  }
  return node
}
