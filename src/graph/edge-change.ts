import { blockError } from '../errors/index.js'
import { BlockChild } from './child.js'
import { Role } from './flags.js'
import { attachEdge, isBelow } from './lifecycle.js'
import type { BlockNode } from './node.js'
import { deviceOrNodeName } from './op-blockers.js'

/** What may still be done with a node that is somebody's backing file. */
const allowedOnBacking = ['commit-target', 'stream', 'backup-source', 'backup-target'] as const

/**
 * A change of edges that has been made but whose permissions are not settled. All of it is
 * synchronous; requests on the nodes must have been drained. Exactly one of the two is called.
 */
export interface EdgeChange {
  /** Nodes whose permissions have to be settled. */
  readonly affected: readonly BlockNode[]
  /** Puts every list, reference and blocker back as it was. */
  undo(): void
  /** Gives the old node's reference back, which may close it. */
  finish(): Promise<void>
}

/** Whether `node` takes options over from `ancestor`, directly or not. */
function inheritsFrom(node: BlockNode, ancestor: BlockNode): boolean {
  for (let at: BlockNode | undefined = node; at !== undefined; at = at.inheritsFrom) {
    if (at === ancestor) {
      return true
    }
  }
  return false
}

/** Removes `item` and returns what puts it back into its place. */
function cut<T>(list: T[], item: T): () => void {
  const at = list.indexOf(item)
  if (at < 0) {
    return () => undefined
  }
  list.splice(at, 1)
  return () => {
    list.splice(at, 0, item)
  }
}

/** Throws if an edge may not be changed because a job relies on it. */
export function checkNotFrozen(edge: BlockChild | undefined): void {
  if (edge?.frozen === true) {
    const parent = edge.parent.parentNode
    throw blockError(
      'EPERM',
      parent === undefined
        ? `Cannot change '${edge.name}' link to '${edge.node.name}'`
        : `Cannot change frozen '${edge.name}' link from '${parent.name}' to '${edge.node.name}'`,
    )
  }
}

/**
 * Makes `edge` point to `to`; the edge itself stays, so that its parent need not know.
 *
 * @throws BlockError EPERM for a frozen edge, EINVAL if a cycle would come of it
 */
export function repointEdge(edge: BlockChild, to: BlockNode): EdgeChange {
  const from = edge.node
  const parent = edge.parent.parentNode
  checkNotFrozen(edge)
  if (parent !== undefined && isBelow(to, parent)) {
    throw blockError(
      'EINVAL',
      `Making '${to.name}' a ${edge.name} child of '${parent.name}' would create a cycle`,
    )
  }
  const inherited = from.inheritsFrom
  const inheriting = to.inheritsFrom
  const restore = cut(from.parents, edge)
  edge.node = to
  to.parents.push(edge)
  to.references++
  if (parent !== undefined) {
    if (inheritsFrom(to, parent)) {
      to.inheritsFrom = parent
    }
    if (from.inheritsFrom === parent) {
      from.inheritsFrom = undefined
    }
    parent.childrenChanged()
  }
  for (const update of to.layer.drainedSections) {
    update()
  }
  return {
    affected: [to, from],
    undo: () => {
      cut(to.parents, edge)
      to.references--
      edge.node = from
      restore()
      from.inheritsFrom = inherited
      to.inheritsFrom = inheriting
      parent?.childrenChanged()
    },
    finish: () => from.layer.unref(from),
  }
}

/**
 * Makes `backing` the backing node of `node`, or takes the present one away.
 *
 * @throws BlockError EPERM for a frozen edge, EINVAL if the driver has no backing files or a cycle
 *   would come of it
 */
export function swapBacking(node: BlockNode, backing: BlockNode | undefined): EdgeChange {
  const old = node.child('backing')
  checkNotFrozen(old)
  if (backing !== undefined && !node.isFilter && node.driver !== undefined && !node.supportsBacking) {
    throw blockError(
      'EINVAL',
      `Driver '${node.driver.name}' of node '${node.name}' does not support backing files`,
    )
  }
  const { noBacking } = node.flags
  const blockerMessage = node.backingBlocker.message
  const inheriting = backing?.inheritsFrom
  const takesOver = backing !== undefined && inheritsFrom(backing, node)
  const undo: (() => void)[] = [
    () => {
      node.childrenChanged()
    },
  ]
  if (old !== undefined) {
    const below = old.node
    const inherited = below.inheritsFrom
    const restoreChild = cut(node.children, old)
    const restoreParent = cut(below.parents, old)
    if (inherited === node) {
      below.inheritsFrom = undefined
    }
    below.opBlockers.unblockAll(node.backingBlocker)
    undo.push(() => {
      restoreChild()
      restoreParent()
      below.inheritsFrom = inherited
      node.backingBlocker.message = blockerMessage
      if (!node.isFilter) {
        below.opBlockers.blockAll(node.backingBlocker, allowedOnBacking)
      }
    })
  }
  const revert = (): void => {
    for (const step of undo.reverse()) {
      step()
    }
  }
  if (backing !== undefined) {
    const role = node.isFilter ? Role.filtered | Role.primary : Role.cow
    const edge = new BlockChild('backing', role, node, backing)
    try {
      attachEdge(edge)
    } catch (error) {
      revert()
      throw error
    }
    node.flags.noBacking = false
    if (takesOver) {
      backing.inheritsFrom = node
    }
    if (!node.isFilter) {
      node.backingBlocker.message = `node is used as backing hd of '${deviceOrNodeName(node)}'`
      backing.opBlockers.blockAll(node.backingBlocker, allowedOnBacking)
    }
    undo.push(() => {
      backing.opBlockers.unblockAll(node.backingBlocker)
      cut(node.children, edge)
      cut(backing.parents, edge)
      backing.references--
      backing.inheritsFrom = inheriting
      node.flags.noBacking = noBacking
    })
  }
  node.childrenChanged()
  return {
    affected: old === undefined ? [node] : [node, old.node],
    undo: revert,
    finish: async () => {
      await node.layer.unref(old?.node)
    },
  }
}
