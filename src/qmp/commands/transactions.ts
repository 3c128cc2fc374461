import { blockError } from '../../errors/index.js'
import {
  type BlockLayer,
  type BlockNode,
  clearDirtyBitmap,
  disableDirtyBitmap,
  drain,
  enableDirtyBitmap,
  lookupDirtyBitmap,
} from '../../graph/index.js'
import { JobTransaction } from '../../jobs/index.js'
import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'
import type { TypeOf } from '../schema/types.js'
import { type PreparedAction, runActions } from '../transaction.js'
import { prepareBackup, prepareDriveBackup } from './backups.js'
import { addBitmap, mergeBitmaps } from './bitmaps.js'
import { externalSnapshot, externalSnapshotSync, internalSnapshot } from './snapshots.js'

type Action = TypeOf<'TransactionAction'>

/** `transaction`: several changes of which all are made or none. */
export function transactionCommands({ layer }: CommandContext) {
  return defineHandlers({
    transaction: async ({ actions, properties }) => {
      const group = properties?.['completion-mode'] === 'grouped' ? new JobTransaction() : undefined
      // Images that are backed up together are backed up as they are at one moment.
      const section = await drain(backedUp(layer, actions))
      try {
        await runActions(actions.map((action) => () => prepare(layer, action, group)))
      } finally {
        section.end()
      }
    },
  })
}

/** Actions that can stand in a group whose jobs succeed or fail together. */
const groupable: ReadonlySet<Action['type']> = new Set<Action['type']>(['blockdev-backup', 'drive-backup'])

function backedUp(layer: BlockLayer, actions: readonly Action[]): BlockNode[] {
  const names = actions.flatMap((action) =>
    action.type === 'blockdev-backup' || action.type === 'drive-backup' ? [action.data.device] : [],
  )
  return names.flatMap((name) => layer.findNode(name) ?? layer.findBackend(name)?.root?.node ?? [])
}

async function prepare(
  layer: BlockLayer,
  action: Action,
  group: JobTransaction | undefined,
): Promise<PreparedAction> {
  if (group !== undefined && !groupable.has(action.type)) {
    throw blockError(
      'EINVAL',
      `Action '${action.type}' does not support Transaction property completion-mode = grouped`,
    )
  }
  switch (action.type) {
    case 'abort':
      throw blockError('EINVAL', 'Transaction aborted using Abort action')
    case 'block-dirty-bitmap-add': {
      const bitmap = await addBitmap(layer, action.data)
      return { abort: () => bitmap.release() }
    }
    case 'block-dirty-bitmap-remove': {
      const bitmap = lookupDirtyBitmap(layer, action.data.node, action.data.name)
      bitmap.check({ inconsistent: true })
      if (bitmap.isStored && bitmap.name !== undefined) {
        await bitmap.node.state?.bitmapStore?.remove(bitmap.name)
      }
      bitmap.skipStore = true
      bitmap.setBusy(true)
      return {
        commit: () => {
          bitmap.setBusy(false)
          bitmap.release()
        },
        abort: () => {
          bitmap.skipStore = false
          bitmap.setBusy(false)
        },
      }
    }
    case 'block-dirty-bitmap-clear': {
      const bitmap = lookupDirtyBitmap(layer, action.data.node, action.data.name)
      const before = clearDirtyBitmap(bitmap)
      return { abort: () => bitmap.restore(before) }
    }
    case 'block-dirty-bitmap-enable': {
      const bitmap = lookupDirtyBitmap(layer, action.data.node, action.data.name)
      const was = bitmap.enabled
      enableDirtyBitmap(bitmap)
      return { abort: () => (was ? undefined : bitmap.disable()) }
    }
    case 'block-dirty-bitmap-disable': {
      const bitmap = lookupDirtyBitmap(layer, action.data.node, action.data.name)
      const was = bitmap.enabled
      disableDirtyBitmap(bitmap)
      return { abort: () => (was ? bitmap.enable() : undefined) }
    }
    case 'block-dirty-bitmap-merge': {
      const { target, before } = mergeBitmaps(layer, action.data)
      return { abort: () => target.restore(before) }
    }
    case 'blockdev-snapshot':
      return await externalSnapshot(layer, action.data)
    case 'blockdev-snapshot-sync':
      return await externalSnapshotSync(layer, action.data)
    case 'blockdev-snapshot-internal-sync':
      return await internalSnapshot(layer, action.data)
    case 'blockdev-backup':
      return await prepareBackup(layer, action.data, group)
    case 'drive-backup':
      return await prepareDriveBackup(layer, action.data, group)
  }
}
