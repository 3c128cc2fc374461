import type { OpenContext } from '../../../graph/index.js'
import { takeGroup } from './group-option.js'
import { ThrottleNode } from './state.js'

export function open({ file, layer, options }: OpenContext): ThrottleNode {
  return new ThrottleNode(file, layer, takeGroup(layer, options))
}
