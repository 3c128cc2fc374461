import { blockError, isBlockError, prefixed } from '../errors/index.js'
import { OptionDict } from '../options/index.js'
import { setBacking } from './backing.js'
import { createWithDriver } from './create.js'
import type { OpenFlags } from './flags.js'
import type { BlockNode } from './node.js'

/**
 * Puts a temporary qcow2 overlay on top of `node` (`snapshot=on`, seed row 70): the image itself is
 * never written, and the overlay's file is deleted as soon as it is open. Takes over the caller's
 * reference to `node` on success and returns a reference to the overlay.
 */
export async function appendTemporarySnapshot(
  node: BlockNode,
  flags: Readonly<OpenFlags>,
  options: OptionDict,
): Promise<BlockNode> {
  const layer = node.layer
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw blockError('ENOTSUP', "Could not create temporary overlay: no driver 'qcow2'")
  }
  let path: string
  try {
    path = layer.host.files.createTemporary('vl')
  } catch (error) {
    throw prefixed(error, 'Could not get temporary filename: ')
  }
  try {
    await createWithDriver(layer, driver, path, { size: node.length })
  } catch (error) {
    layer.host.files.unlink(path)
    throw isBlockError(error) ? prefixed(error, `Could not create temporary overlay '${path}': `) : error
  }
  const overlayOptions = new OptionDict([
    ['file.driver', 'file'],
    ['file.filename', path],
    ['driver', 'qcow2'],
    ['cache.direct', false],
    ['cache.no-flush', true],
    ['read-only', false],
  ])
  const discard = options.get('discard')
  if (discard !== undefined) {
    overlayOptions.set('discard', discard)
  }
  let overlay: BlockNode
  try {
    overlay = await layer.openRequest({
      filename: undefined,
      options: overlayOptions,
      flags: { write: true, allowWrite: true, temporary: true, noBacking: true, unmap: flags.unmap },
    })
  } catch (error) {
    removeIfThere(node, path)
    throw error
  }
  try {
    await setBacking(overlay, node)
  } catch (error) {
    await layer.unref(overlay)
    throw error
  }
  await layer.unref(node)
  return overlay
}

function removeIfThere(node: BlockNode, path: string): void {
  const files = node.host.files
  if (files.stat(path) !== undefined) {
    files.unlink(path)
  }
}

/**
 * Whether `node` was opened for a temporary overlay to be put on it (seed row 114). Opening uses the
 * flag up: neither the overlay nor what is below it has it afterwards.
 */
export function isSnapshot(node: BlockNode): boolean {
  return node.flags.snapshot
}
