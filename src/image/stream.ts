import type { BlockLayer } from '../graph/index.js'
import type { ConvertOptions, ConvertResult } from './convert.js'
import type { CreateOptionInput } from './create-options.js'
import type { LongRun } from './long-run.js'
import type { ImageSpec } from './open.js'

/** A forward-only receiver of bytes, such as a pipe. The chunk belongs to the sink until the promise settles. */
export interface ByteSink {
  write(chunk: Uint8Array): Promise<void> | undefined
}

/** A forward-only source of bytes of unknown length, such as standard input. */
export type ByteSource = AsyncIterable<Uint8Array>

export interface StreamOutOptions extends LongRun {
  readonly sources: readonly (ImageSpec | string)[]
  /** `raw` or `qcow2`; default `raw`. */
  readonly format?: string | undefined
  readonly options?: CreateOptionInput | undefined
  readonly compress?: boolean | undefined
  readonly sparseSize?: number | undefined
  readonly sourceCache?: string | undefined
}

/**
 * Writes an image to a sink in one forward pass (`convert … -`): raw as it is; qcow2 with its metadata worked out
 * from the source's map and written first. Nothing is spooled.
 *
 * @throws BlockError `ENOTSUP` for other formats.
 */
export async function convertToSink(
  layer: BlockLayer,
  sink: ByteSink,
  options: StreamOutOptions,
): Promise<ConvertResult> {
  throw new Error(`unfinished ${String(layer)} ${String(sink)} ${String(options)}`)
}

/**
 * Converts a stream of raw bytes (`convert -f raw - …`) or of an image of any format. Raw goes straight to
 * the target, which grows with it; other formats are spooled to a temporary file first.
 */
export async function convertFromSource(
  layer: BlockLayer,
  source: ByteSource,
  options: Omit<ConvertOptions, 'sources'> & { readonly sourceFormat?: string | undefined },
): Promise<ConvertResult> {
  throw new Error(`unfinished ${String(layer)} ${String(source)} ${String(options)}`)
}
