import { blockError, codeOf, errnoError, ioError } from '../../../errors/index.js'
import type { BlockNode, ReopenContext, ReopenPlan } from '../../../graph/index.js'
import type { PersistentBitmaps } from './bitmap-store.js'
import { Incompatible } from './constants.js'
import { clearAutoclear } from './header.js'
import type { Qcow2Metadata } from './metadata.js'
import { OverlapCheck } from './overlap.js'
import { type RuntimeSettings, runtimeSettings } from './settings.js'

/**
 * Prepares other options or another access mode for an open image. Both caches are written back
 * first: after that they may be replaced, and an image that stops being writable is complete in its
 * file. Requests have been drained.
 *
 * @param adopt takes the new settings over on commit
 * @throws BlockError with QEMU's text; nothing has changed but what was cached is in the file
 */
export async function prepareReopen(
  context: ReopenContext,
  meta: Qcow2Metadata,
  bitmaps: PersistentBitmaps,
  adopt: (settings: RuntimeSettings) => void,
): Promise<ReopenPlan> {
  const { node, options, readOnly, unmap } = context
  if (meta.corruption.fatal) {
    throw ioError('ENOMEDIUM', { node: node.name, operation: 'reopen' })
  }
  const settings = runtimeSettings(options, meta.header, unmap)
  if (!readOnly && node.readOnly) {
    checkWritable(meta.header.incompatible)
  }
  const becomesReadonly = readOnly && !node.readOnly
  const stayWritable = (): void => {
    if (becomesReadonly) {
      node.dirtyBitmaps.holdWrites(makeBitmapsWritable(node, meta, bitmaps))
    }
  }
  if (becomesReadonly) {
    await meta.locked(() => bitmaps.makeReadonly())
  }
  let overlap: OverlapCheck | undefined
  try {
    await meta.locked(async () => {
      await step('Failed to flush the L2 table cache', () => meta.writeL2())
      await step('Failed to flush the refcount block cache', () => meta.writeBlocks())
      if (!node.readOnly && (readOnly || (meta.lazyRefcounts && !settings.lazyRefcounts))) {
        await step('Failed to disable lazy refcounts', () => meta.markClean(Incompatible.dirty))
      }
    })
    if (becomesReadonly) {
      // The node's own flush at the start of the transaction came before the caches were empty for good.
      const flushed = meta.file.flush()
      if (flushed !== undefined) {
        await flushed
      }
    }
    if (!readOnly) {
      if (!meta.loaded) {
        await meta.load()
      }
      overlap = new OverlapCheck(meta, settings.protectedStructures)
      await overlap.load()
    }
  } catch (error) {
    stayWritable()
    throw error
  }
  const becomesWritable = !readOnly && node.readOnly
  return {
    commit: () => {
      adopt(settings)
      meta.resizeCaches(settings.caches())
      meta.allocator.discards = settings.discards
      meta.lazyRefcounts = settings.lazyRefcounts
      meta.cleaner.start(settings.cacheCleanInterval)
      meta.discardNoUnref = settings.discardNoUnref
      meta.overlap = overlap
    },
    abort: stayWritable,
    finish: async () => {
      // As with an open for writing: what an unknown feature says of the image will not stay true.
      if (becomesWritable && clearAutoclear(meta.header)) {
        await step('Could not update qcow2 header', () => meta.writeHeader())
      }
      if (becomesWritable) {
        await makeBitmapsWritable(node, meta, bitmaps)
      }
    },
  }
}

/** As an open for writing, but nothing is repaired on the way: somebody is reading the image. */
function checkWritable(incompatible: number): void {
  if ((incompatible & Incompatible.corrupt) !== 0) {
    throw blockError('EACCES', 'qcow2: Image is corrupt; cannot be opened read/write')
  }
  if ((incompatible & Incompatible.dirty) !== 0) {
    throw blockError('EACCES', 'qcow2: Image is dirty; it must be opened for writing to be repaired')
  }
}

/** A failure leaves the bitmaps, and with them the image, as they are in the file. */
async function makeBitmapsWritable(
  node: BlockNode,
  meta: Qcow2Metadata,
  bitmaps: PersistentBitmaps,
): Promise<void> {
  try {
    await meta.locked(() => bitmaps.makeWritable())
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error)
    node.host.warn(`${node.name}: Failed to make dirty bitmaps writable: ${text}`)
  }
}

async function step(failure: string, run: () => Promise<void>): Promise<void> {
  try {
    await run()
  } catch (error) {
    throw errnoError(codeOf(error), failure, { cause: error })
  }
}
