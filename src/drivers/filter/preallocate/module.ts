import type { OpenContext } from '../../../graph/index.js'
import { Preallocate } from './state.js'
import { takeStep } from './step.js'

export function open({ file, node, options }: OpenContext): Preallocate {
  return new Preallocate(node, file, takeStep(options, file))
}
