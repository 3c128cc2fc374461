import {
  type CreateContext,
  createFile,
  type MeasureContext,
  type MeasureResult,
} from '../../../graph/index.js'
import type { OptionsOf } from '../../../options/index.js'
import type { rawCreateOptions } from './options.js'

export { open } from './open.js'

/** A raw image is just its file. */
export async function create({ layer, filename, options }: CreateContext): Promise<void> {
  await createFile(layer, filename, options)
}

export function measure({ options, source }: MeasureContext): MeasureResult {
  const { size = 0 }: OptionsOf<typeof rawCreateOptions> = options
  const required = source === undefined ? Math.ceil(size / 512) * 512 : source.length
  // What is not allocated still counts towards the length of a raw file.
  return { required, fullyAllocated: required }
}
