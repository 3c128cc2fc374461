import { blockError, codeOf } from '../errors/index.js'
import { joinAioContexts } from './aio-change.js'
import { BlockChild } from './child.js'
import type { BlockNode } from './node.js'
import { settlePermissions } from './permissions.js'

/** Whether `target` is `node` or lies below it. */
export function isBelow(node: BlockNode, target: BlockNode): boolean {
  return node === target || node.children.some((child) => isBelow(child.node, target))
}

/**
 * Adds an edge to the lists of both ends and takes a reference to the child. Permissions are not
 * looked at. Throws EINVAL if the edge would close a cycle (seed row 69).
 */
export function attachEdge(child: BlockChild): void {
  const parent = child.parent.parentNode
  if (parent !== undefined) {
    if (isBelow(child.node, parent)) {
      throw blockError(
        'EINVAL',
        `Making '${child.node.name}' a ${child.name} child of '${parent.name}' would create a cycle`,
      )
    }
    if (child.node.flags.inactive && !parent.flags.inactive) {
      throw blockError(
        'EINVAL',
        `Inactive '${child.node.name}' can't be a ${child.name} child of active '${parent.name}'`,
      )
    }
    parent.children.push(child)
    parent.childrenChanged()
  }
  child.node.parents.push(child)
  child.node.references++
  for (const update of child.node.layer.drainedSections) {
    update()
  }
}

/** Takes an edge out of both lists. The caller owns the reference that the edge held. */
export function detachEdge(child: BlockChild): void {
  const parent = child.parent.parentNode
  if (parent !== undefined) {
    const at = parent.children.indexOf(child)
    if (at >= 0) {
      parent.children.splice(at, 1)
    }
    parent.childrenChanged()
    if (child.node.inheritsFrom === parent) {
      child.node.inheritsFrom = undefined
    }
  }
  const at = child.node.parents.indexOf(child)
  if (at >= 0) {
    child.node.parents.splice(at, 1)
  }
}

/** Attaches `node` to `parent` and settles permissions; on failure the graph is as before. */
export async function attachChild(
  parent: BlockNode,
  node: BlockNode,
  name: string,
  role: number,
): Promise<BlockChild> {
  await joinAioContexts(parent, node)
  const child = new BlockChild(name, role, parent, node)
  await parent.layer.graphLock.run(async () => {
    attachEdge(child)
    try {
      await settlePermissions([parent])
    } catch (error) {
      detachEdge(child)
      node.references--
      throw error
    }
  })
  return child
}

/** Detaches a child, settles the permissions of what is left below it, and gives its reference back. */
export async function detachChild(child: BlockChild | undefined): Promise<void> {
  if (child === undefined) {
    return
  }
  await child.node.layer.graphLock.run(async () => {
    detachEdge(child)
    if (child.node.references > 1) {
      await settlePermissions([child.node])
    }
  })
  await child.node.layer.unref(child.node)
}

/**
 * Closes a node: waits for requests, flushes, runs close listeners, closes the driver, then lets go
 * of backing and other children in that order (seed row 55). Idempotent on a closed node. Whatever
 * fails on the way, the node is closed and unnamed afterwards; the first error is thrown.
 */
export async function closeNode(node: BlockNode): Promise<void> {
  let failure: unknown
  const step = async (run: () => unknown): Promise<void> => {
    try {
      await run()
    } catch (error) {
      failure ??= error
    }
  }
  const layer = node.layer
  if (node.driver !== undefined) {
    await step(() => node.requests.idle())
    await step(async () => {
      try {
        await node.flush()
      } catch (error) {
        // A driver that has taken itself out of service has told so before.
        if (codeOf(error) !== 'ENOMEDIUM') {
          throw error
        }
      }
    })
    await step(() => node.requests.idle())
    for (const listener of [...node.closeListeners]) {
      await step(listener)
    }
    node.closeListeners.clear()
    await step(() => node.state?.close())
    node.driver = undefined
    node.state = undefined
    node.map = undefined
    node.direct = undefined
    node.flushPath = undefined
    node.debug = undefined
  }
  // What was to be kept of them is in the image.
  await step(() => node.dirtyBitmaps.releaseNamed())
  const backing = node.children.filter((child) => child.name === 'backing')
  const others = node.children.filter((child) => child.name !== 'backing')
  for (const child of backing) {
    child.node.opBlockers.unblockAll(node.backingBlocker)
  }
  for (const child of [...backing, ...others]) {
    await step(() => detachChild(child))
  }
  node.copyOnRead = 0
  node.backingFile = ''
  node.backingFormat = ''
  node.autoBackingFile = ''
  node.length = 0
  layer.names.release(node)
  layer.nodes.delete(node)
  if (failure !== undefined) {
    throw failure
  }
}
