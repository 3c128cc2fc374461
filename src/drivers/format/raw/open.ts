import type { OpenContext } from '../../../graph/index.js'
import { RawState } from './state.js'
import { takeWindow } from './window.js'

export function open(context: OpenContext): RawState {
  const { node, file, host } = context
  if (node.probed && !node.readOnly) {
    host.warn(`WARNING: Image format was not specified for '${file.node.filename}' and probing guessed raw.`)
    host.warn(
      '         Automatically detecting the format is dangerous for raw images, ' +
        'write operations on block 0 will be restricted.',
    )
    host.warn("         Specify the 'raw' format explicitly to remove the restrictions.")
  }
  return new RawState(node, file, takeWindow(context.options, file.node.length))
}
