import { blockError, prefixed } from '../errors/index.js'
import { Backend, type BlockLayer, type OpenFlags, parseCacheMode } from '../graph/index.js'
import { OptionDict, type OptionTree } from '../options/index.js'

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
  /** Nobody else may write or resize meanwhile. */
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
  const { cache = 'writeback', cacheOf = 'target', ...open } = flags
  const mode = cacheModeOf(cache, cacheOf)
  const image: ImageSpec = typeof spec === 'string' ? { filename: spec } : spec
  const options = openOptions(image)
  options.setDefault('cache.direct', mode.direct)
  options.setDefault('cache.no-flush', mode.noFlush)
  try {
    return await Backend.open(layer, image.filename, options, open, { writeThrough: mode.writeThrough })
  } catch (error) {
    throw prefixed(error, `Could not open '${imageLabel(image)}': `)
  }
}

/**
 * What a cache mode word stands for.
 *
 * @throws BlockError `Invalid cache option: %s`, `Invalid source cache option: %s`
 */
export function cacheModeOf(cache: string, cacheOf: 'source' | 'target') {
  const mode = parseCacheMode(cache)
  if (mode === undefined) {
    const kind = cacheOf === 'source' ? 'source cache' : 'cache'
    throw blockError('EINVAL', `Invalid ${kind} option: ${cache}`)
  }
  return mode
}

function openOptions(image: ImageSpec): OptionDict {
  const given = image.options ?? {}
  const options = given instanceof OptionDict ? given.clone() : OptionDict.fromTree(given)
  if (image.format !== undefined) {
    options.set('driver', image.format)
  }
  if (image.forceShare === true) {
    const present = options.get('force-share')
    if (present !== undefined && present !== 'on' && present !== true) {
      throw blockError('EINVAL', '--force-share/-U conflicts with image options')
    }
    options.set('force-share', true)
  }
  return options
}

/** The name of an image in messages. */
export function imageLabel(spec: ImageSpec | string): string {
  return typeof spec === 'string' ? spec : (spec.label ?? spec.filename ?? '')
}
