import { blockError, codeOf, errnoError, isBlockError } from '../../errors/index.js'
import {
  appendNode,
  type BlockLayer,
  type BlockNode,
  checkNotBlocked,
  createSnapshot,
  cumulativePermissions,
  deviceOrNodeName,
  inactivateNode,
  isInserted,
  listSnapshots,
  Perm,
  removeSnapshot,
  reopenSetReadOnly,
  replaceNode,
  type SnapshotInfo,
  setBacking,
} from '../../graph/index.js'
import { createImage, snapshotInfo } from '../../image/index.js'
import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'
import type { TypeOf } from '../schema/types.js'
import { ignoringErrors, type PreparedAction, runActions } from '../transaction.js'

/** External and internal snapshots. */
export function snapshotCommands({ layer }: CommandContext) {
  return defineHandlers({
    'blockdev-snapshot': async (args) => await runActions([() => externalSnapshot(layer, args)]),
    'blockdev-snapshot-sync': async (args) => await runActions([() => externalSnapshotSync(layer, args)]),
    'blockdev-snapshot-internal-sync': async (args) =>
      await runActions([() => internalSnapshot(layer, args)]),
    'blockdev-snapshot-delete-internal-sync': async ({ device, id, name }) => {
      const node = rootBlockNode(layer, device)
      if (id === undefined && name === undefined) {
        throw blockError('EINVAL', 'Name or id must be provided')
      }
      checkNotBlocked(node, 'internal-snapshot-delete')
      const snapshots = listSnapshots(node)
      if (snapshots === undefined) {
        throw errnoError('ENOTSUP', 'Failed to get a snapshot list')
      }
      const found = snapshots.find(
        (one) => (id === undefined || one.id === id) && (name === undefined || one.name === name),
      )
      if (found === undefined) {
        throw blockError(
          'ENOENT',
          `Snapshot with id '${id ?? 'null'}' and name '${name ?? 'null'}' does not exist on device '${device}'`,
        )
      }
      await removeSnapshot(node, found.id, found.name)
      return snapshotInfo(found)
    },
  })
}

/** A node that nothing but devices and exports stand on, no job either, for commands that come from the time of devices. @throws BlockError with QEMU's text */
export function rootBlockNode(layer: BlockLayer, device: string): BlockNode {
  const node = layer.lookup(device, device)
  if (node.parents.some(({ parent }) => parent.parentNode !== undefined || parent.stayAtNode === true)) {
    throw blockError('EINVAL', 'Need a root block node')
  }
  if (!isInserted(node)) {
    throw blockError('ENOMEDIUM', `Device '${device}' has no medium`)
  }
  return node
}

/** Prepares the node below for an overlay. */
async function checkBelow(node: BlockNode, name: string): Promise<void> {
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
}

async function putOnTop(overlay: BlockNode, node: BlockNode): Promise<PreparedAction> {
  const { layer } = node
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
  // Until the end neither of them may go away.
  layer.ref(node)
  layer.ref(overlay)
  try {
    await appendNode(overlay, node)
  } catch (error) {
    await layer.unref(overlay)
    await layer.unref(node)
    throw error
  }
  return {
    commit: async () => {
      // Nobody writes to it any more.
      if (node.copyOnRead === 0) {
        await ignoringErrors(() => reopenSetReadOnly(node, true))
      }
    },
    abort: async () => {
      await ignoringErrors(() => replaceNode(overlay, node))
      await ignoringErrors(() => setBacking(overlay, undefined))
    },
    clean: async () => {
      await layer.unref(overlay)
      await layer.unref(node)
    },
  }
}

/** `blockdev-snapshot`: an overlay that is there. */
export async function externalSnapshot(
  layer: BlockLayer,
  args: TypeOf<'BlockdevSnapshot'>,
): Promise<PreparedAction> {
  const node = layer.lookup(args.node, args.node)
  await checkBelow(node, args.node)
  return await putOnTop(layer.lookup(args.overlay, args.overlay), node)
}

/** `blockdev-snapshot-sync`: an overlay that is made. */
export async function externalSnapshotSync(
  layer: BlockLayer,
  args: TypeOf<'BlockdevSnapshotSync'>,
): Promise<PreparedAction> {
  const { device, 'node-name': nodeName, 'snapshot-node-name': overlayName, format = 'qcow2' } = args
  const node = layer.lookup(device, nodeName)
  await checkBelow(node, device ?? nodeName ?? '')
  if (nodeName !== undefined && overlayName === undefined) {
    throw blockError('EINVAL', 'New overlay node-name missing')
  }
  if (overlayName !== undefined && layer.findNode(overlayName) !== undefined) {
    throw blockError('EEXIST', 'New overlay node-name already in use')
  }
  const filename = args['snapshot-file']
  if ((args.mode ?? 'absolute-paths') !== 'existing') {
    if (node.exactFilename === '' && node.filename.startsWith('json:') && node.filename.length > 1023) {
      throw blockError('EINVAL', 'Backing file name too long')
    }
    await createImage(layer, {
      filename,
      format,
      size: node.length,
      backing: { file: node.filename, format: node.driver?.name ?? '' },
      announce: (banner) => layer.host.print?.(banner),
    })
  }
  const overlay = await layer.open(
    filename,
    {
      driver: format,
      ...(overlayName === undefined ? {} : { 'node-name': overlayName }),
    },
    { write: true, noBacking: true },
  )
  try {
    return await putOnTop(overlay, node)
  } finally {
    await layer.unref(overlay)
  }
}

/** `blockdev-snapshot-internal-sync`. */
export async function internalSnapshot(
  layer: BlockLayer,
  { device, name }: TypeOf<'BlockdevSnapshotInternal'>,
): Promise<PreparedAction> {
  const node = rootBlockNode(layer, device)
  checkNotBlocked(node, 'internal-snapshot')
  if (node.readOnly) {
    throw blockError('EROFS', `Device '${device}' is read only`)
  }
  const snapshots = listSnapshots(node)
  if (snapshots === undefined || node.state?.snapshotOperations === undefined) {
    throw blockError(
      'ENOTSUP',
      `Block format '${node.driver?.name ?? ''}' used by device '${deviceOrNodeName(node)}' does not support internal snapshots`,
    )
  }
  if (name === '') {
    throw blockError('EINVAL', 'Name is empty')
  }
  if (snapshots.some((one) => one.name === name)) {
    throw blockError('EEXIST', `Snapshot with name '${name}' already exists on device '${device}'`)
  }
  const now = Date.now()
  const seconds = Math.floor(now / 1000)
  try {
    await createSnapshot(node, {
      id: '',
      name,
      dateSeconds: seconds,
      dateNanoseconds: (now - seconds * 1000) * 1_000_000,
      vmClockNanoseconds: 0n,
      vmStateSize: 0,
    })
  } catch (error) {
    throw errnoError(codeOf(error), `Failed to create snapshot '${name}' on device '${device}'`, {
      cause: error,
    })
  }
  const made: SnapshotInfo | undefined = listSnapshots(node)?.find((one) => one.name === name)
  return {
    abort: async () => {
      if (made !== undefined) {
        await ignoringErrors(() => removeSnapshot(node, made.id, made.name))
      }
    },
  }
}
