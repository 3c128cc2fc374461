import { blockError } from '../errors/index.js'
import { joinAioContexts } from './aio-change.js'
import { drain } from './drain.js'
import { type EdgeChange, swapBacking } from './edge-change.js'
import { Role } from './flags.js'
import { refreshLimits } from './geometry.js'
import { isBelow } from './lifecycle.js'
import type { BlockNode } from './node.js'
import { checkNotBlocked } from './op-blockers.js'
import { changeEdges, finishChanges, moveParents, refreshAbove } from './transaction.js'

/**
 * Moves every parent edge of `from` to `to`, except edges that would close a loop because they come
 * from `to` or below it (seed row 72). Requests in flight finish first, new ones go to `to`. Permissions
 * are checked for the new graph; if they conflict, everything is as before and the error is thrown.
 */
export async function replaceNode(from: BlockNode, to: BlockNode): Promise<void> {
  if (from !== to) {
    await change([from, to], to, (made) => {
      moveParents(from, to, made)
    })
  }
}

/** Drains, changes edges, and tells those above `top` of its length and limits. */
async function change(
  nodes: readonly BlockNode[],
  top: BlockNode,
  make: (made: EdgeChange[]) => void,
): Promise<void> {
  for (const node of nodes) {
    await joinAioContexts(node, top)
  }
  const section = await drain(nodes)
  try {
    const changes = await changeEdges(top, make)
    refreshLimits(top)
    refreshAbove(top)
    await finishChanges(changes)
  } finally {
    section.end()
  }
}

/** How a node is put on top of another. */
export interface AppendOptions {
  /**
   * What a device had asked for of the old top moves to the new one, and the other way round: copy on
   * read (seed row 71). Today such things stay at their node, or belong to the backend.
   */
  readonly swapFeatures?: boolean
}

/**
 * Puts `overlay` on top of `node`: it takes over the parents and has `node` as its backing file, in
 * one step (seed row 73). The caller keeps its reference to `overlay`. `overlay` must have no backing
 * yet and nobody using it.
 */
export async function appendNode(
  overlay: BlockNode,
  node: BlockNode,
  options: AppendOptions = {},
): Promise<void> {
  if (overlay.backing !== undefined) {
    throw new Error('the new top node already has a backing file')
  }
  if (overlay.parents.length > 0) {
    throw new Error('the new top node is already in use')
  }
  await change([overlay, node], overlay, (made) => {
    made.push(swapBacking(overlay, node))
    moveParents(node, overlay, made)
    if (options.swapFeatures === true) {
      made.push(swapFeatures(overlay, node))
    }
  })
}

function swapFeatures(a: BlockNode, b: BlockNode): EdgeChange {
  const swap = (): void => {
    const { copyOnRead } = a
    a.copyOnRead = b.copyOnRead
    b.copyOnRead = copyOnRead
  }
  swap()
  return { affected: [], undo: swap, finish: async () => undefined }
}

/**
 * Puts `to` in the place of `from` in a backing chain (seed row 74): parents move, and a new node
 * without a backing file that is not already below the old one takes over the old one's.
 */
export async function replaceInBackingChain(from: BlockNode, to: BlockNode): Promise<void> {
  if (from === to) {
    return
  }
  await change([from, to], to, (made) => {
    const { backing } = from
    const inherits = to.backing === undefined && !isBelow(from, to) && from.driver !== undefined
    moveParents(from, to, made)
    if (inherits && backing !== undefined) {
      made.push(swapBacking(to, backing), swapBacking(from, undefined))
    }
  })
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
  const { replaceable } = node.state ?? {}
  if (replaceable !== undefined) {
    return node === candidate || replaceable.some((below) => recurseIsFirstNonFilter(below, candidate))
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

/** Whether a node with the contents of `node` may take the place of `candidate`, at or below it (row 76, today's rule). */
export function recurseCanReplace(node: BlockNode | undefined, candidate: BlockNode): boolean {
  if (node?.driver === undefined) {
    return false
  }
  if (node === candidate) {
    return true
  }
  return (
    node.state?.canReplace?.(candidate) ??
    recurseCanReplace(node.filteredNode as BlockNode | undefined, candidate)
  )
}

/** The node called `name`, if a mirror of `parent` may replace it (seed row 77). */
export function checkToReplaceNode(parent: BlockNode, name: string): BlockNode {
  const node = parent.layer.findNode(name)
  if (node === undefined) {
    throw blockError('ENODEV', `Failed to find node with node-name='${name}'`)
  }
  checkNotBlocked(node, 'replace')
  if (!recurseCanReplace(parent, node)) {
    throw blockError(
      'EINVAL',
      `Cannot replace '${name}' by a node mirrored from '${parent.name}', because it cannot be ` +
        'guaranteed that doing so would not lead to an abrupt change of visible data',
    )
  }
  return node
}
