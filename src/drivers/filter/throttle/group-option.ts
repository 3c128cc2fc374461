import { blockError } from '../../../errors/index.js'
import type { BlockLayer } from '../../../graph/index.js'
import { type OptionDict, takeOptions } from '../../../options/index.js'
import { throttleOptions } from './options.js'

/** Takes the name of an existing group out of `options`. @throws BlockError EINVAL with QEMU's text */
export function takeGroup(layer: BlockLayer, options: OptionDict): string {
  const group = takeOptions(options, throttleOptions)['throttle-group']
  if (group === undefined) {
    throw blockError('EINVAL', 'Please specify a throttle group')
  }
  if (layer.throttleGroups.find(group) === undefined) {
    throw blockError('EINVAL', `Throttle group '${group}' does not exist`)
  }
  return group
}
