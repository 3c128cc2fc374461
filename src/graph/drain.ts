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
 * everything in flight on them, above them and below them has finished. Sections nest. Users that come
 * to stand above the nodes meanwhile are held back as well.
 */
export async function drain(nodes: readonly BlockNode[]): Promise<DrainedSection> {
  const users = new Set<EdgeParent>()
  const above = new Set<BlockNode>()
  const sections = nodes[0]?.layer.drainedSections
  const update = (): void => {
    const found = new Set<EdgeParent>()
    above.clear()
    for (const node of nodes) {
      usersAbove(node, found, above)
    }
    for (const user of found) {
      if (!users.has(user)) {
        users.add(user)
        user.holdRequests?.()
      }
    }
  }
  update()
  sections?.add(update)
  const lifted = new Set<BlockNode>()
  for (const node of above) {
    lift(node, lifted)
  }
  let ended = false
  const section: DrainedSection = {
    end: () => {
      if (!ended) {
        ended = true
        sections?.delete(update)
        for (const node of lifted) {
          node.state?.drainedEnd?.()
        }
        for (const user of users) {
          user.releaseRequests?.()
        }
      }
    },
  }
  try {
    for (const user of users) {
      const wait = user.quiesced?.()
      if (wait !== undefined) {
        await wait
      }
    }
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

/** Has the drivers of `node` and everything below let go what they hold back. */
function lift(node: BlockNode, lifted: Set<BlockNode>): void {
  if (lifted.has(node)) {
    return
  }
  for (const child of node.children) {
    lift(child.node, lifted)
  }
  // Only what is told of the beginning is told of the end.
  if (node.state?.drainedBegin !== undefined) {
    lifted.add(node)
    node.state.drainedBegin()
  }
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
