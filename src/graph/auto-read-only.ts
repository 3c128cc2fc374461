import { blockError } from '../errors/index.js'
import type { OpenContext } from './driver.js'

/**
 * For drivers that cannot write: turns the node that is being opened read-only, if it may be
 * (`auto-read-only=on`). To be called before anything else of the open.
 *
 * @param message says why it cannot be written
 * @throws BlockError EACCES if the node was to be written
 */
export function applyAutoReadOnly({ node }: OpenContext, message = 'Image is read-only'): void {
  if (!node.flags.write) {
    return
  }
  const auto = node.options.get('auto-read-only')
  if (auto !== true && auto !== 'on') {
    throw blockError('EACCES', message)
  }
  node.flags.write = false
  node.readOnly = true
}
