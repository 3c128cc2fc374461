import { blockError } from '../errors/index.js'
import type { AmendContext } from './driver-operations.js'
import { refreshNodeLength } from './resize.js'

/**
 * Changes properties of an open image in place (seed row 101).
 *
 * @throws BlockError ENOMEDIUM `Node is ejected`, ENOTSUP
 *   `Block driver '%s' does not support option amendment`, or the driver's own
 */
export async function amendNode(context: AmendContext): Promise<void> {
  const { node } = context
  if (node.driver === undefined) {
    throw blockError('ENOMEDIUM', 'Node is ejected')
  }
  if (node.state?.amend === undefined) {
    throw blockError('ENOTSUP', `Block driver '${node.driver.name}' does not support option amendment`)
  }
  try {
    await node.state.amend(context)
  } finally {
    refreshNodeLength(node)
    node.flushState.writeGeneration++
  }
}
