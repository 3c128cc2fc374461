import type { BlockLayer } from '../graph/index.js'
import type { LongRun } from './long-run.js'
import type { ImageSpec } from './open.js'

export interface DdOptions extends LongRun {
  readonly source: ImageSpec | string
  readonly target: string
  /** Target format; default `raw`. */
  readonly format?: string | undefined
  /** Bytes moved at a time; default 512. */
  readonly blockSize?: number | undefined
  /** Blocks to copy at most. */
  readonly count?: number | undefined
  /** Blocks to leave out at the start of the source. */
  readonly skip?: number | undefined
}

/**
 * Copies a part of an image into a new one: `qemu-img dd`. The result has exactly the bytes copied.
 * `skip` past the end leaves an empty image and warns `%s: cannot skip to specified offset`.
 *
 * @throws BlockError with QEMU's text.
 */
export async function ddImage(layer: BlockLayer, options: DdOptions): Promise<{ readonly bytes: number }> {
  throw new Error(`unfinished ${String(layer)} ${String(options)}`)
}
