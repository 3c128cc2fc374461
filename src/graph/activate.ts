import { blockError, codeOf, errnoError, ioError, isBlockError } from '../errors/index.js'
import { drain } from './drain.js'
import { Perm } from './flags.js'
import { installState, refreshLength, refreshLimits } from './geometry.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'
import { cumulativePermissions, refreshPermissions } from './permissions.js'

const writing = Perm.write | Perm.writeUnchanged

/** Whether the node belongs to another process for now. */
export function isInactive(node: BlockNode): boolean {
  return node.flags.inactive
}

function hasNodeAbove(node: BlockNode, activeOnly: boolean): boolean {
  return node.parents.some((edge) => {
    const parent = edge.parent.parentNode
    return parent !== undefined && !(activeOnly && parent.flags.inactive)
  })
}

function setInactive(node: BlockNode, inactive: boolean): void {
  node.flags = { ...node.flags, inactive }
  node.readOnly = !node.flags.write || inactive
}

/**
 * Takes the images of `node` and of everything below it over from the process that had them (seed
 * row 115): takes the locks, has the drivers read again what they know, asks for the length, and has
 * users take their permissions back. An active node is left alone.
 *
 * @throws BlockError; the node it failed at is inactive still, those below it may be active
 */
export async function activateNode(node: BlockNode): Promise<void> {
  if (node.driver === undefined) {
    throw blockError('ENOMEDIUM', 'No medium found')
  }
  for (const child of [...node.children]) {
    await activateNode(child.node)
  }
  if (node.flags.inactive) {
    setInactive(node, false)
    let invalidated = false
    try {
      await refreshPermissions([node])
      await invalidateNode(node)
      invalidated = true
      refreshLength(node)
      refreshLimits(node)
    } catch (error) {
      if (invalidated) {
        await letGo(node)
      }
      setInactive(node, true)
      // What activating took is given back; that cannot conflict with anything.
      await refreshPermissions([node]).catch(() => undefined)
      throw error
    }
    node.options.delete('active')
    node.explicitOptions.delete('active')
  }
  for (const edge of [...node.parents]) {
    try {
      await edge.parent.activate?.()
    } catch (error) {
      setInactive(node, true)
      throw error
    }
  }
}

/** The driver gives up again what it took when it read the image. The error that made it so is the one to report. */
async function letGo(node: BlockNode): Promise<void> {
  try {
    await node.state?.inactivate?.()
  } catch (error) {
    codeOf(error)
  }
}

/** Has the driver forget what it knows of the image, which another process may have changed. */
async function invalidateNode(node: BlockNode): Promise<void> {
  const section = await drain([node])
  try {
    const state = await node.state?.invalidate?.()
    if (state !== undefined) {
      installState(node, state)
      const backingFile = state.backingFile ?? ''
      if (backingFile !== node.backingFile) {
        node.autoBackingFile = backingFile
      }
      node.backingFile = backingFile
      node.backingFormat = state.backingFormat ?? ''
    }
  } finally {
    section.end()
  }
}

/** Activates every node; stops at the first that fails. The images of opens to come are the layer's `incoming`. */
export async function activateAll(layer: BlockLayer): Promise<void> {
  for (const node of [...layer.nodes]) {
    if (node.driver !== undefined) {
      await activateNode(node)
    }
  }
}

async function inactivateRecursively(node: BlockNode): Promise<void> {
  if (node.driver === undefined) {
    throw ioError('ENOMEDIUM')
  }
  // A node with an active parent is reached again through that one.
  if (hasNodeAbove(node, true) || node.flags.inactive) {
    return
  }
  const section = await drain([node])
  try {
    const written = node.state?.inactivate?.()
    if (written !== undefined) {
      await written
    }
    const flushed = node.flush()
    if (flushed !== undefined) {
      await flushed
    }
    for (const edge of [...node.parents]) {
      await edge.parent.inactivate?.()
    }
    if ((cumulativePermissions(node).perm & writing) !== 0) {
      throw ioError('EPERM')
    }
    setInactive(node, true)
  } finally {
    section.end()
  }
  // Only takes away.
  await refreshPermissions([node]).catch(() => undefined)
  for (const child of [...node.children]) {
    await inactivateRecursively(child.node)
  }
}

/**
 * Hands the images of `node` and below over to another process: writes everything back, has users
 * give up writing and drops the locks. Reading goes on, of what was there.
 *
 * @throws BlockError EPERM `Node has active parent node`, `Failed to inactivate node: …`
 */
export async function inactivateNode(node: BlockNode): Promise<void> {
  if (hasNodeAbove(node, true)) {
    throw blockError('EPERM', 'Node has active parent node')
  }
  try {
    await inactivateRecursively(node)
  } catch (error) {
    throw isBlockError(error) ? errnoError(error.code, 'Failed to inactivate node', { cause: error }) : error
  }
}

/**
 * Hands all images over, from the top nodes down. Stops at the first that fails; activate all then.
 *
 * @throws BlockError `Failed to inactivate all nodes: …`
 */
export async function inactivateAll(layer: BlockLayer): Promise<void> {
  try {
    for (const node of [...layer.nodes]) {
      if (node.driver !== undefined && !hasNodeAbove(node, false)) {
        await inactivateRecursively(node)
      }
    }
  } catch (error) {
    throw isBlockError(error)
      ? errnoError(error.code, 'Failed to inactivate all nodes', { cause: error })
      : error
  }
}

/**
 * `blockdev-set-active`: one node with what is below it, or all.
 *
 * @throws BlockError
 */
export async function setActive(
  layer: BlockLayer,
  nodeName: string | undefined,
  active: boolean,
): Promise<void> {
  if (nodeName === undefined) {
    await (active ? activateAll(layer) : inactivateAll(layer))
    return
  }
  const node = layer.findNode(nodeName)
  if (node === undefined) {
    throw blockError('ENOENT', `Failed to find node with node-name='${nodeName}'`)
  }
  await (active ? activateNode(node) : inactivateNode(node))
}
