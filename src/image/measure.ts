import type { Backend, BlockLayer, MeasureResult } from '../graph/index.js'
import type { CreateOptionInput } from './create-options.js'

export interface MeasureImageOptions {
  /** Target format; default `raw`. */
  readonly format?: string | undefined
  readonly options?: CreateOptionInput | undefined
  /** The image to be converted; excludes `size`. */
  readonly source?: Backend | undefined
  /** Guest bytes of an empty image; excludes `source`. */
  readonly size?: number | undefined
}

/**
 * How many bytes a target would need: `qemu-img measure`.
 *
 * @throws BlockError `Unknown file format '%s'`, `Format driver '%s' does not support image creation`,
 *   `Block driver '%s' does not support size measurement`.
 */
export async function measureImage(layer: BlockLayer, options: MeasureImageOptions): Promise<MeasureResult> {
  throw new Error(`unfinished ${String(layer)} ${String(options)}`)
}
