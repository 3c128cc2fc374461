import { prefixed } from '../../../errors/index.js'
import type { OpenContext } from '../../../graph/index.js'
import type { Qcow2Image } from './image.js'

/**
 * Reads an image anew that another process may have changed: header, tables and snapshots come from
 * the file, nothing is kept, and the children stay. The node's present options count.
 *
 * @throws BlockError `Could not reopen qcow2 layer: …`
 */
export async function reload(
  context: OpenContext,
  open: (context: OpenContext) => Promise<Qcow2Image>,
): Promise<Qcow2Image> {
  const { node } = context
  try {
    return await open({
      ...context,
      options: node.options.clone(),
      flags: node.flags,
      openChild: async (key, role, optional) =>
        node.child(key) ?? (await context.openChild(key, role, optional)),
      openImplicitChild: async (key, role, name) =>
        node.child(key) ?? (await context.openImplicitChild(key, role, name)),
    })
  } catch (error) {
    // Bitmaps that were loaded before it failed would be loaded twice by the next attempt.
    for (const bitmap of [...node.dirtyBitmaps]) {
      if (bitmap.isStored) {
        bitmap.release()
      }
    }
    throw prefixed(error, 'Could not reopen qcow2 layer: ')
  }
}
