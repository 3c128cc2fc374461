import { blockError } from '../../../errors/index.js'
import type { OpenContext } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import { rawOptions } from './options.js'
import { RawState } from './state.js'
import { checkWindow, type Window } from './window.js'

export function open(context: OpenContext): RawState {
  const { node, file, host } = context
  const given = takeOptions(context.options, rawOptions)
  if (node.probed && !node.readOnly) {
    host.warn(`WARNING: Image format was not specified for '${file.node.filename}' and probing guessed raw.`)
    host.warn(
      '         Automatically detecting the format is dangerous for raw images, ' +
        'write operations on block 0 will be restricted.',
    )
    host.warn("         Specify the 'raw' format explicitly to remove the restrictions.")
  }
  const window: Window = { offset: given.offset ?? 0, size: given.size }
  checkWindow(window, file.node.length)
  if (!Number.isSafeInteger(window.offset)) {
    throw blockError('EINVAL', 'Disk size too large for the chosen offset')
  }
  return new RawState(node, file, window)
}
