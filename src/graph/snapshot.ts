import { blockError, codeOf, errnoError } from '../errors/index.js'
import { drain } from './drain.js'
import type { SnapshotInfo } from './driver.js'
import type { NewSnapshot, SnapshotOperations } from './driver-operations.js'
import { Role } from './flags.js'
import type { BlockNode } from './node.js'
import { checkNotBlocked } from './op-blockers.js'
import { refreshNodeLength } from './resize.js'

/**
 * The node whose driver keeps the internal snapshots of `node`: itself, or the one image below if the
 * driver has nothing else to keep. Undefined if there is none.
 */
function keeper(node: BlockNode): BlockNode | undefined {
  for (let at: BlockNode | undefined = node; at !== undefined; at = onlyImageBelow(at)) {
    if (at.state?.snapshotOperations !== undefined) {
      return at
    }
  }
  return undefined
}

/** The primary child, if no other child holds a part of the image. */
function onlyImageBelow(node: BlockNode): BlockNode | undefined {
  const parts = node.children.filter(
    (child) => (child.role & (Role.data | Role.metadata | Role.filtered)) !== 0,
  )
  const [part] = parts
  return parts.length === 1 && part !== undefined && (part.role & Role.primary) !== 0 ? part.node : undefined
}

function assertOpen(node: BlockNode, message: string): void {
  if (node.driver === undefined) {
    throw blockError('ENOMEDIUM', message)
  }
}

async function withOperations<T>(
  node: BlockNode,
  unsupported: () => Error,
  body: (operations: SnapshotOperations, keeper: BlockNode) => Promise<T>,
): Promise<T> {
  const found = keeper(node)
  const operations = found?.state?.snapshotOperations
  if (found === undefined || operations === undefined) {
    throw unsupported()
  }
  const section = await drain([found])
  try {
    return await body(operations, found)
  } finally {
    section.end()
  }
}

function assertWritable(node: BlockNode): void {
  if (node.readOnly) {
    throw blockError('EACCES', `Block node '${node.name}' is read-only`)
  }
}

/** The internal snapshots of an image, in the order of its table; undefined if the format has none. */
export function listSnapshots(node: BlockNode): readonly SnapshotInfo[] | undefined {
  for (let at: BlockNode | undefined = node; at !== undefined; at = onlyImageBelow(at)) {
    if (at.state?.snapshots !== undefined) {
      return at.state.snapshots()
    }
  }
  return undefined
}

/** Records the present state as an internal snapshot. @throws BlockError ENOMEDIUM, ENOTSUP, or the driver's */
export async function createSnapshot(node: BlockNode, snapshot: NewSnapshot): Promise<void> {
  assertOpen(node, 'No medium found')
  checkNotBlocked(node, 'internal-snapshot')
  const unsupported = () => errnoError('ENOTSUP', 'Could not create snapshot')
  await withOperations(node, unsupported, async (operations, found) => {
    assertWritable(found)
    await operations.create(snapshot)
  })
}

/**
 * Makes the guest see a snapshot again; the length of the image may change with it.
 *
 * @param id an id; if no snapshot has it, a name
 * @throws BlockError `Block driver does not support snapshots`, `Failed to load snapshot: …`
 */
export async function applySnapshot(node: BlockNode, id: string): Promise<void> {
  assertOpen(node, 'Block driver is closed')
  if (!node.dirtyBitmaps.isEmpty) {
    // What they have recorded would be wrong for another state.
    throw blockError('EBUSY', 'Device has active dirty bitmaps')
  }
  if (!node.dirtyBitmaps.isEmpty) {
    // They would not know what has changed.
    throw blockError('EBUSY', 'Device has active dirty bitmaps')
  }
  const unsupported = () => blockError('ENOTSUP', 'Block driver does not support snapshots')
  await withOperations(node, unsupported, async (operations, found) => {
    assertWritable(found)
    try {
      await operations.apply(id)
    } catch (error) {
      throw errnoError(codeOf(error), 'Failed to load snapshot', { cause: error })
    } finally {
      refreshNodeLength(found)
      found.flushState.writeGeneration++
    }
  })
}

/** Removes a snapshot that has both this id and this name. @throws BlockError with QEMU's text */
export async function removeSnapshot(node: BlockNode, id: string, name: string): Promise<void> {
  assertOpen(node, 'No medium inserted')
  checkNotBlocked(node, 'internal-snapshot-delete')
  const unsupported = () => notSupported(node, 'internal snapshot deletion')
  await withOperations(node, unsupported, async (operations, found) => {
    assertWritable(found)
    await operations.remove(id, name)
  })
}

/**
 * Shows a snapshot instead of the present state until the image is closed. The length stays that of
 * the image. At least one of `id` and `name` is given.
 *
 * @throws BlockError `Device is not readonly`, `Can't find snapshot`
 */
export async function loadSnapshot(
  node: BlockNode,
  id: string | undefined,
  name: string | undefined,
): Promise<void> {
  assertOpen(node, 'No medium inserted')
  if (id === undefined && name === undefined) {
    throw blockError('EINVAL', 'snapshot_id and name are both NULL')
  }
  if (!node.readOnly) {
    throw blockError('EINVAL', 'Device is not readonly')
  }
  const unsupported = () => notSupported(node, 'temporarily loading internal snapshots')
  await withOperations(node, unsupported, (operations) => operations.load(id, name))
}

/** {@link loadSnapshot} of the snapshot with this id, else of the one with this name. */
export async function loadSnapshotByIdOrName(node: BlockNode, wanted: string): Promise<void> {
  try {
    await loadSnapshot(node, wanted, undefined)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'EINVAL') {
      throw error
    }
    await loadSnapshot(node, undefined, wanted)
  }
}

function notSupported(node: BlockNode, what: string): Error {
  const format = node.driver?.name ?? ''
  const device = [...node.layer.backends].find((backend) => backend.root?.node === node)?.name ?? ''
  return blockError('ENOTSUP', `Block format '${format}' used by device '${device}' does not support ${what}`)
}
