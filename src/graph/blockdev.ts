import { blockError, isBlockError } from '../errors/index.js'
import type { OptionTree } from '../options/index.js'
import { inactivateNode } from './activate.js'
import { Perm } from './flags.js'
import type { BlockLayer } from './layer.js'
import { appendNode } from './mutate.js'
import type { BlockNode } from './node.js'
import { checkNotBlocked } from './op-blockers.js'
import { cumulativePermissions } from './permissions.js'
import { isInserted } from './resize.js'

// Nodes that a user makes, stacks and removes by name.

/**
 * `blockdev-add`: opens a node with everything below it. It stays until {@link removeBlockdev}.
 *
 * @throws BlockError
 */
export async function addBlockdev(layer: BlockLayer, options: OptionTree): Promise<BlockNode> {
  if (options['node-name'] === undefined) {
    throw blockError('EINVAL', "'node-name' must be specified for the root node")
  }
  const node = await layer.open(undefined, options, { write: true, unmap: false })
  layer.userNodes.add(node)
  return node
}

/**
 * `blockdev-del`: removes a node that {@link addBlockdev} made and that nothing uses.
 *
 * @throws BlockError
 */
export async function removeBlockdev(layer: BlockLayer, nodeName: string): Promise<void> {
  const node = layer.findNode(nodeName)
  if (node === undefined) {
    throw blockError('ENOENT', `Failed to find node with node-name='${nodeName}'`)
  }
  if (node.parents.some(({ parent }) => parent.parentNode === undefined && parent.stayAtNode !== true)) {
    throw blockError('EBUSY', `Node ${nodeName} is in use`)
  }
  checkNotBlocked(node, 'drive-del')
  if (!layer.userNodes.has(node)) {
    throw blockError('EPERM', `Node ${nodeName} is not owned by the monitor`)
  }
  if (node.references > 1) {
    throw blockError('EBUSY', `Block device ${nodeName} is in use`)
  }
  layer.userNodes.delete(node)
  await layer.unref(node)
}

/**
 * `blockdev-snapshot`: puts the node `overlayName` on top of the one that `name` is, a device or a
 * node; what used that uses the overlay from now on.
 *
 * @throws BlockError; nothing has changed
 */
export async function snapshotBlockdev(layer: BlockLayer, name: string, overlayName: string): Promise<void> {
  const node = layer.lookup(name, name)
  if (!isInserted(node)) {
    throw blockError('ENOMEDIUM', `Device '${name}' has no medium`)
  }
  checkNotBlocked(node, 'external-snapshot')
  if (!node.readOnly) {
    try {
      await node.flush()
    } catch (error) {
      throw isBlockError(error) ? blockError(error.code, 'An IO error has occurred', { cause: error }) : error
    }
  }
  const overlay = layer.lookup(overlayName, overlayName)
  if ((cumulativePermissions(overlay).perm & Perm.consistentRead) !== 0) {
    throw blockError('EBUSY', 'The overlay is already in use')
  }
  if (!overlay.supportsBacking) {
    throw blockError('ENOTSUP', 'The overlay does not support backing images')
  }
  if (overlay.backing !== undefined) {
    throw blockError('EINVAL', 'The overlay already has a backing image')
  }
  // For compatibility: who takes snapshots of images that are handed over expects them to be as well.
  if (node.flags.inactive && !overlay.flags.inactive) {
    await inactivateNode(overlay)
  }
  await appendNode(overlay, node)
}
