import type { EdgeParent } from './child.js'
import type { BlockNode } from './node.js'

/** A drained section: nothing is in flight on the nodes, and their users hold new requests back. */
export interface DrainedSection {
  /** Lets the users go on; held requests start in order. Idempotent. */
  end(): void
}

/** The users (not nodes) that requests on `node` come from. */
function usersAbove(node: BlockNode, into: Set<EdgeParent>, seen: Set<BlockNode>): void {
  if (seen.has(node)) {
    return
  }
  seen.add(node)
  for (const edge of node.parents) {
    const parent = edge.parent.parentNode
    if (parent === undefined) {
      into.add(edge.parent)
    } else {
      usersAbove(parent, into, seen)
    }
  }
}

/**
 * Begins a drained section on `nodes`: holds back what their users would start, then waits until
 * everything in flight on them, above them and below them has finished. Sections nest.
 */
export async function drain(nodes: readonly BlockNode[]): Promise<DrainedSection> {
  const users = new Set<EdgeParent>()
  const above = new Set<BlockNode>()
  for (const node of nodes) {
    usersAbove(node, users, above)
  }
  for (const user of users) {
    user.holdRequests?.()
  }
  let ended = false
  const section: DrainedSection = {
    end: () => {
      if (!ended) {
        ended = true
        for (const user of users) {
          user.releaseRequests?.()
        }
      }
    },
  }
  try {
    // From the top down: a request above may still start one below.
    for (const node of [...above].reverse()) {
      await idle(node)
    }
  } catch (error) {
    section.end()
    throw error
  }
  return section
}

async function idle(node: BlockNode): Promise<void> {
  for (;;) {
    const wait = node.requests.idle() ?? node.flushState.idle()
    if (wait === undefined) {
      break
    }
    await wait
  }
  for (const child of node.children) {
    await idle(child.node)
  }
}
