import { blockError } from '../../../errors/index.js'
import type { BlockChild } from '../../../graph/index.js'
import { type OptionDict, takeOptions } from '../../../options/index.js'
import { preallocateOptions } from './options.js'

/** How far ahead the file grows. Bytes. */
export interface Step {
  /** Lengths of the file are multiples of this. */
  readonly align: number
  readonly size: number
}

/** Takes the options of the driver. @throws BlockError EINVAL with QEMU's text */
export function takeStep(options: OptionDict, file: BlockChild): Step {
  const given = takeOptions(options, preallocateOptions)
  const step = { align: given['prealloc-align'] ?? 1 << 20, size: given['prealloc-size'] ?? 128 << 20 }
  const parameter = 'prealloc-align parameter of preallocate filter is not aligned to'
  if (step.align % 512 !== 0) {
    throw blockError('EINVAL', `${parameter} 512`)
  }
  const { requestAlignment } = file.node.limits
  if (step.align % requestAlignment !== 0) {
    throw blockError('EINVAL', `${parameter} underlying node request alignment (${requestAlignment})`)
  }
  return step
}
