import { blockError } from '../../../errors/index.js'
import { type BlockNode, freezeChain, type OpenContext } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import { copyOnReadOptions } from './options.js'
import { CopyOnRead } from './state.js'

/** @throws BlockError with QEMU's text if the image is read-only, or `bottom` no image below */
export function open({ file, layer, node, options }: OpenContext): CopyOnRead {
  if (file.node.readOnly) {
    throw blockError('EPERM', 'Block node is read-only')
  }
  const { bottom } = takeOptions(options, copyOnReadOptions)
  let lowest: BlockNode | undefined
  if (bottom !== undefined) {
    lowest = layer.findNode(bottom)
    if (lowest === undefined) {
      throw blockError('EINVAL', `Bottom node '${bottom}' not found`)
    }
    if (lowest.isFilter) {
      throw blockError('EINVAL', `Bottom node '${bottom}' is a filter`)
    }
    freezeChain(node, lowest)
  }
  return new CopyOnRead(node, file, lowest)
}
