import { blockError, prefixed } from '../errors/index.js'
import {
  addDirtyBitmap,
  type BlockNode,
  type DirtyBitmap,
  mergeDirtyBitmaps,
  removeDirtyBitmap,
  supportsPersistentBitmaps,
} from '../graph/index.js'

/** Whether a conversion copies dirty bitmaps, and what it does with those that mean nothing. */
export interface BitmapCopy {
  /** `--bitmaps`: copy the persistent bitmaps of the only source. */
  readonly bitmaps?: boolean | undefined
  /** `--skip-broken-bitmaps`: leave out inconsistent ones instead of failing; needs `bitmaps`. */
  readonly skipBrokenBitmaps?: boolean | undefined
}

/**
 * Makes sure that the bitmaps of `source` can be copied.
 *
 * @throws BlockError `Source lacks bitmap support`, `Cannot copy inconsistent bitmap '%s'`
 */
export function checkSourceBitmaps(source: BlockNode, { skipBrokenBitmaps = false }: BitmapCopy): void {
  if (!supportsPersistentBitmaps(source)) {
    throw blockError('ENOTSUP', 'Source lacks bitmap support')
  }
  for (const bitmap of source.dirtyBitmaps) {
    if (bitmap.isStored && bitmap.inconsistent && !skipBrokenBitmaps) {
      throw blockError('EINVAL', `Cannot copy inconsistent bitmap '${bitmap.name}'`, {
        hint: "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
      })
    }
  }
}

/** @throws BlockError `Format driver '%s' does not support bitmaps` */
export function checkTargetBitmaps(target: BlockNode): void {
  if (!supportsPersistentBitmaps(target)) {
    throw blockError('ENOTSUP', `Format driver '${target.driver?.name ?? ''}' does not support bitmaps`)
  }
}

/**
 * Copies the persistent bitmaps of `source` to `target`, which keeps them when it is closed.
 *
 * @param warn gets the text about each bitmap that is left out
 * @throws BlockError `Failed to create bitmap %s: …`, `Failed to populate bitmap %s: …`
 */
export async function copyBitmaps(
  source: BlockNode,
  target: BlockNode,
  warn: (text: string) => void,
): Promise<void> {
  for (const bitmap of source.dirtyBitmaps) {
    const { name } = bitmap
    if (!bitmap.isStored || name === undefined) {
      continue
    }
    if (bitmap.inconsistent) {
      warn(`Skipping inconsistent bitmap '${name}'`)
      continue
    }
    let copy: DirtyBitmap
    try {
      const { granularity, enabled } = bitmap
      copy = await addDirtyBitmap(target, { name, granularity, persistent: true, disabled: !enabled })
    } catch (error) {
      throw prefixed(error, `Failed to create bitmap ${name}: `)
    }
    try {
      mergeDirtyBitmaps(copy, [bitmap])
    } catch (error) {
      await removeDirtyBitmap(copy)
      throw prefixed(error, `Failed to populate bitmap ${name}: `)
    }
  }
}
