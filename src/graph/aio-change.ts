import { blockError } from '../errors/index.js'
import { type AioContext, type AioNotifier, findIoThread } from './aio-context.js'
import type { BlockChild, EdgeParent } from './child.js'
import { drain } from './drain.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'

/** What has to move together, and the users that go along. */
interface Moving {
  readonly nodes: Set<BlockNode>
  readonly users: Set<EdgeParent>
}

/** @throws BlockError EPERM if a user of any node cannot go along */
function collect(start: BlockNode, context: AioContext, ignored: BlockChild | undefined): Moving {
  const nodes = new Set<BlockNode>()
  const users = new Set<EdgeParent>()
  const visit = (node: BlockNode): void => {
    if (nodes.has(node) || node.aioContext === context) {
      return
    }
    nodes.add(node)
    for (const edge of node.parents) {
      const parent = edge.parent.parentNode
      if (parent !== undefined) {
        visit(parent)
      } else if (edge !== ignored) {
        if (edge.parent.checkAioContext === undefined) {
          throw blockError('EPERM', `Changing iothreads is not supported by ${edge.parent.description}`)
        }
        edge.parent.checkAioContext(context)
        users.add(edge.parent)
      }
    }
    for (const edge of node.children) {
      visit(edge.node)
    }
  }
  visit(start)
  return { nodes, users }
}

/** Parents before children; of the children the backing node comes last, as it is attached first. */
function detachOrder(nodes: ReadonlySet<BlockNode>): BlockNode[] {
  const order: BlockNode[] = []
  const seen = new Set<BlockNode>()
  const visit = (node: BlockNode): void => {
    if (seen.has(node) || !nodes.has(node)) {
      return
    }
    seen.add(node)
    const backing = node.children.filter((edge) => edge.name === 'backing')
    const others = node.children.filter((edge) => edge.name !== 'backing').reverse()
    for (const edge of [...backing, ...others]) {
      visit(edge.node)
    }
    order.push(node)
  }
  for (const node of nodes) {
    visit(node)
  }
  return order.reverse()
}

/** Calls the notifiers there are now; those removed by others meanwhile are left out. */
function notify(node: BlockNode, call: (notifier: AioNotifier) => void): void {
  for (const notifier of [...node.aioNotifiers]) {
    if (node.aioNotifiers.includes(notifier)) {
      call(notifier)
    }
  }
}

/** Notifiers, then the driver. The children follow. A closed node has nothing to take down. */
function detach(node: BlockNode): void {
  if (node.driver !== undefined) {
    notify(node, ({ detach, opaque }) => {
      detach(opaque)
    })
    node.state?.detachAioContext?.()
  }
}

/** The other way round: the children are attached, now the driver, then the notifiers. */
function attach(node: BlockNode, context: AioContext): void {
  if (node.driver !== undefined) {
    node.state?.attachAioContext?.(context)
    notify(node, ({ attached, opaque }) => {
      attached(context, opaque)
    })
  }
}

function moveDrained(moving: Moving, context: AioContext): void {
  const order = detachOrder(moving.nodes)
  for (const node of order) {
    detach(node)
  }
  for (const node of order) {
    node.aioContext = context
  }
  for (const node of order.reverse()) {
    attach(node, context)
  }
  for (const user of moving.users) {
    user.aioContextChanged?.(context)
  }
}

/**
 * Moves the I/O of `node` and of everything connected with it, above and below, to `context` (seed
 * row 116, today's rule): all of it moves, or nothing does. Requests in flight finish where they
 * began; those held back meanwhile are carried out in the new context, in order.
 *
 * @param ignored an edge whose user asks for the change and goes along anyway
 * @throws BlockError EPERM if a user of one of the nodes cannot go along
 */
export async function changeAioContext(
  node: BlockNode,
  context: AioContext,
  ignored?: BlockChild,
): Promise<void> {
  for (;;) {
    const before = collect(node, context, ignored)
    if (before.nodes.size === 0) {
      return
    }
    const section = await drain([...before.nodes])
    try {
      // While requests were waited for, the graph may have changed.
      const now = collect(node, context, ignored)
      if ([...now.nodes].every((other) => before.nodes.has(other))) {
        moveDrained(now, context)
        return
      }
    } finally {
      section.end()
    }
  }
}

/**
 * Brings the node below a new edge and the edge's parent into one context: the child goes to the
 * parent's, or else the parent to the child's.
 *
 * @throws BlockError EPERM if neither can move; the first refusal is reported
 */
export async function joinAioContexts(parent: BlockNode, child: BlockNode): Promise<void> {
  if (parent.aioContext === child.aioContext) {
    return
  }
  try {
    await changeAioContext(child, parent.aioContext)
  } catch (error) {
    try {
      await changeAioContext(parent, child.aioContext)
    } catch {
      throw error
    }
  }
}

/**
 * `x-blockdev-set-iothread`: moves a node to an I/O thread, or back to the main loop (null). A node
 * that a backend uses is moved only with `force`, because its user may not expect it.
 *
 * @throws BlockError
 */
export async function setIoThread(
  layer: BlockLayer,
  nodeName: string,
  ioThread: string | null,
  force = false,
): Promise<void> {
  const node = layer.findNode(nodeName)
  if (node === undefined) {
    throw blockError('ENOENT', `Cannot find node ${nodeName}`)
  }
  if (!force && node.parents.some((edge) => edge.parent.parentNode === undefined)) {
    throw blockError(
      'EBUSY',
      `Node ${nodeName} is associated with a BlockBackend and could be in use (use force=true to override this check)`,
    )
  }
  const context = ioThread === null ? layer.mainContext : findIoThread(layer, ioThread)
  if (context === undefined) {
    throw blockError('ENOENT', `Cannot find iothread ${ioThread}`)
  }
  await changeAioContext(node, context)
}
