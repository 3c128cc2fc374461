import { blockError } from '../errors/index.js'
import { type EdgeChange, repointEdge, swapBacking } from './edge-change.js'
import { refreshFilename } from './filenames.js'
import { Role } from './flags.js'
import { refreshLength, refreshLimits } from './geometry.js'
import { isBelow } from './lifecycle.js'
import type { BlockNode } from './node.js'
import { settlePermissions } from './permissions.js'

/**
 * Changes edges as `change` says, which adds each change to the list as it makes it, and settles the
 * permissions of all of them together. If anything fails everything is as before. Requests have been
 * drained; the caller finishes the changes when nobody waits for it any more.
 */
export async function changeEdges(
  node: BlockNode,
  change: (made: EdgeChange[]) => void,
): Promise<readonly EdgeChange[]> {
  return await node.layer.graphLock.run(async () => {
    const made: EdgeChange[] = []
    try {
      change(made)
      await settlePermissions(made.flatMap(({ affected }) => affected))
    } catch (error) {
      for (const one of made.reverse()) {
        one.undo()
      }
      throw error
    }
    return made
  })
}

/** Gives back what the old edges held. The first failure is thrown when all are done. */
export async function finishChanges(changes: readonly EdgeChange[]): Promise<void> {
  let failure: { error: unknown } | undefined
  for (const change of changes) {
    try {
      await change.finish()
    } catch (error) {
      failure ??= { error }
    }
  }
  if (failure !== undefined) {
    throw failure.error
  }
}

/**
 * Points the parents of `from` to `to`, but for those that would close a loop because they are `to` or
 * below it, and those that stay at their node.
 *
 * @throws BlockError EPERM for a frozen edge
 */
export function moveParents(from: BlockNode, to: BlockNode, made: EdgeChange[]): void {
  for (const edge of [...from.parents]) {
    const parent = edge.parent.parentNode
    if (edge.parent.stayAtNode === true || (parent !== undefined && isBelow(to, parent))) {
      continue
    }
    if (edge.frozen) {
      throw blockError('EPERM', `Cannot change '${edge.name}' link to '${from.name}'`)
    }
    made.push(
      parent !== undefined && (edge.role & Role.cow) !== 0 ? swapBacking(parent, to) : repointEdge(edge, to),
    )
  }
}

/** What the parents of `node` know of its length and limits, and what all are called, is no longer true. */
export function refreshAbove(node: BlockNode): void {
  if (node.parents.every((edge) => edge.parent.parentNode === undefined)) {
    refreshFilename(node)
  }
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
