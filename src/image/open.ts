import type { Backend, BlockLayer, OpenFlags } from '../graph/index.js'
import type { OptionDict, OptionTree } from '../options/index.js'

/** An image as a user names it: a file name (plain, with a protocol prefix or `json:`), or options. */
export interface ImageSpec {
  readonly filename?: string | undefined
  /** Format driver; probed when absent. */
  readonly format?: string | undefined
  /** Open options, as `--image-opts` gives them or besides a file name. */
  readonly options?: OptionDict | OptionTree | undefined
  /** Name of the image in messages; default: the file name. */
  readonly label?: string | undefined
  /** `-U`: share the image with whoever uses it. */
  readonly forceShare?: boolean | undefined
}

/** How {@link openImage} opens. */
export interface OpenImageFlags extends Partial<OpenFlags> {
  /** A cache mode word (`none`, `writeback`, `unsafe`, …); an unknown one is `EINVAL` `Invalid cache option: %s`. */
  readonly cache?: string | undefined
  /** Whose cache mode it is: sources say `Invalid source cache option: %s`. */
  readonly cacheOf?: 'source' | 'target'
  /** The user means to change the length. */
  readonly resize?: boolean
  /** Nobody else may write or resize meanwhile (what `check -r`, `resize` and `convert` need). */
  readonly noShare?: boolean
}

/**
 * Opens an image for an operation. The caller closes the backend.
 *
 * @throws BlockError `Could not open '%s': …`, or `--force-share/-U conflicts with image options`.
 */
export async function openImage(
  layer: BlockLayer,
  spec: ImageSpec | string,
  flags: OpenImageFlags = {},
): Promise<Backend> {
  throw new Error(`unfinished ${String(layer)} ${String(spec)} ${String(flags)}`)
}

/** The name of an image in messages. */
export function imageLabel(spec: ImageSpec | string): string {
  return typeof spec === 'string' ? spec : (spec.label ?? spec.filename ?? '')
}
