import { blockError, codeOf } from '../errors/index.js'
import { chainContains, changeBackingFile, findOverlay } from './backing.js'
import { drain } from './drain.js'
import { refreshFilename } from './filenames.js'
import { Role } from './flags.js'
import type { BlockNode } from './node.js'
import { whileWritable } from './reopen.js'
import { changeEdges, finishChanges, moveParents, refreshAbove } from './transaction.js'

/**
 * Takes the images between `top`'s overlay and `base` out of `active`'s chain, `top` included,
 * recording `backingName` (or `base`'s name) in the header of every image that had `top` as its backing
 * file (seed row 64, today's rule). Contents must be the same either way. Headers come first: a crash
 * in between leaves images whose names lead past what is in use still.
 *
 * @throws BlockError EIO if the nodes are not such a chain, or the error of changing a header or the
 *   graph; headers and graph are as before then
 */
export async function dropIntermediate(
  active: BlockNode,
  top: BlockNode,
  base: BlockNode,
  backingName?: string,
): Promise<void> {
  const overlay = findOverlay(active, top)
  if (top.driver === undefined || base.driver === undefined || overlay === undefined || active === top) {
    throw blockError('EIO', 'Input/output error')
  }
  if (overlay.backing === base) {
    return
  }
  if (!chainContains(top, base)) {
    throw blockError('EIO', 'Input/output error')
  }
  refreshFilename(base)
  const name = backingName ?? base.filename
  const format = base.driver.name
  const undo: (() => Promise<void>)[] = []
  const held = [top, base].map((node) => node.layer.ref(node))
  const section = await drain([top])
  try {
    for (const node of imagesAbove(top)) {
      const { backingFile, backingFormat, autoBackingFile } = node
      await recordBacking(node, name, format)
      undo.push(async () => {
        await recordBacking(node, backingFile, backingFormat)
        node.autoBackingFile = autoBackingFile
      })
    }
    const changes = await changeEdges(top, (made) => {
      moveParents(top, base, made)
    })
    refreshAbove(base)
    await finishChanges(changes)
  } catch (error) {
    for (const step of undo.reverse()) {
      // The first error is the one to tell.
      await step().catch(codeOf)
    }
    throw error
  } finally {
    section.end()
    for (const node of held) {
      await node.layer.unref(node)
    }
  }
}

/** The images whose backing file `node` is. */
function imagesAbove(node: BlockNode): BlockNode[] {
  return node.parents
    .filter((edge) => (edge.role & Role.cow) !== 0)
    .map((edge) => edge.parent.parentNode)
    .filter((parent) => parent !== undefined)
}

/** Changes the header of an image, which is writable only meanwhile if it is not now. */
async function recordBacking(node: BlockNode, name: string, format: string): Promise<void> {
  await whileWritable(node, () =>
    changeBackingFile(node, name === '' ? undefined : name, format === '' ? undefined : format),
  )
}
