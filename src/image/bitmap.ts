import { codeOf, errnoError, prefixed } from '../errors/index.js'
import {
  addDirtyBitmap,
  type BlockLayer,
  type BlockNode,
  clearDirtyBitmap,
  disableDirtyBitmap,
  enableDirtyBitmap,
  findDirtyBitmap,
  mergeDirtyBitmaps,
  removeDirtyBitmap,
} from '../graph/index.js'
import { type ImageSpec, openImage } from './open.js'

/** What to do with a bitmap. */
export type BitmapAction =
  | { readonly action: 'add' | 'remove' | 'clear' | 'enable' | 'disable' }
  /** Add what is dirty in the bitmap called `source`. */
  | { readonly action: 'merge'; readonly source: string }

export interface ChangeBitmapOptions {
  /** Name of the bitmap. */
  readonly name: string
  /** Carried out in order. */
  readonly actions: readonly BitmapAction[]
  /** Bytes, for `add`; default: the cluster size within 4 KiB and 64 KiB. */
  readonly granularity?: number | undefined
  /** Where `merge` finds its sources; default: the image itself. */
  readonly sourceImage?: ImageSpec | string | undefined
}

/**
 * Changes the persistent dirty bitmaps of an image: `qemu-img bitmap`. What was done before an action
 * that fails stays done.
 *
 * @throws BlockError `Operation %s on bitmap %s failed: …`; `Error while closing the image: …` if the
 *   bitmaps could not be stored
 */
export async function changeBitmap(
  layer: BlockLayer,
  image: ImageSpec | string,
  options: ChangeBitmapOptions,
): Promise<void> {
  const target = await openImage(layer, image, { write: true })
  try {
    const { sourceImage } = options
    const source = sourceImage === undefined ? undefined : await openImage(layer, sourceImage)
    try {
      for (const action of options.actions) {
        try {
          await carryOut(target.node, source?.node ?? target.node, action, options)
        } catch (error) {
          throw prefixed(error, `Operation ${action.action} on bitmap ${options.name} failed: `)
        }
      }
    } finally {
      await source?.close()
    }
    await storeBitmaps(target.node)
  } finally {
    await target.close()
  }
}

/**
 * Stores the bitmaps of an image that is about to be closed. The close does so as well, but cannot
 * tell what goes wrong.
 *
 * @throws BlockError `Error while closing the image: …`
 */
export async function storeBitmaps(node: BlockNode): Promise<void> {
  try {
    await node.state?.inactivate?.()
  } catch (error) {
    throw errnoError(codeOf(error), 'Error while closing the image', { cause: error })
  }
}

async function carryOut(
  target: BlockNode,
  sources: BlockNode,
  what: BitmapAction,
  { name, granularity }: ChangeBitmapOptions,
): Promise<void> {
  switch (what.action) {
    case 'add':
      await addDirtyBitmap(target, { name, granularity, persistent: true })
      return
    case 'remove':
      await removeDirtyBitmap(findDirtyBitmap(target, name))
      return
    case 'clear':
      clearDirtyBitmap(findDirtyBitmap(target, name))
      return
    case 'enable':
      enableDirtyBitmap(findDirtyBitmap(target, name))
      return
    case 'disable':
      disableDirtyBitmap(findDirtyBitmap(target, name))
      return
    case 'merge':
      mergeDirtyBitmaps(findDirtyBitmap(target, name), [findDirtyBitmap(sources, what.source)])
  }
}
