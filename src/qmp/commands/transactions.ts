import { blockError } from '../../errors/index.js'
import {
  type BlockLayer,
  clearDirtyBitmap,
  disableDirtyBitmap,
  enableDirtyBitmap,
  lookupDirtyBitmap,
} from '../../graph/index.js'
import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'
import type { TypeOf } from '../schema/types.js'
import { type PreparedAction, runActions } from '../transaction.js'
import { addBitmap, mergeBitmaps } from './bitmaps.js'
import { externalSnapshot, externalSnapshotSync, internalSnapshot } from './snapshots.js'

type Action = TypeOf<'TransactionAction'>

/** `transaction`: several changes of which all are made or none. */
export function transactionCommands({ layer }: CommandContext) {
  return defineHandlers({
    transaction: async ({ actions, properties }) => {
      if (properties?.['completion-mode'] === 'grouped') {
        const wrong = actions.find(({ type }) => !groupable.has(type))
        if (wrong !== undefined) {
          throw blockError(
            'EINVAL',
            `Action '${wrong.type}' does not support transaction property completion-mode = grouped`,
          )
        }
      }
      await runActions(actions.map((action) => () => prepare(layer, action)))
    },
  })
}

/** Actions that can stand in a group whose jobs succeed or fail together. */
const groupable: ReadonlySet<Action['type']> = new Set<Action['type']>(['blockdev-backup', 'drive-backup'])

async function prepare(layer: BlockLayer, action: Action): Promise<PreparedAction> {
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
    default:
      throw blockError('ENOTSUP', `Action '${action.type}' is not supported`)
  }
}
