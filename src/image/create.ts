import { blockError, codeOf, isBlockError } from '../errors/index.js'
import {
  type BlockLayer,
  type BlockNode,
  createWithDriver,
  fullBackingFilename,
  type OpenFlags,
} from '../graph/index.js'
import { OptionDict } from '../options/index.js'
import { type CreateOptionInput, CreateOptions, createTarget } from './create-options.js'

export interface CreateImageOptions {
  /** Where to create it; an existing file is overwritten. */
  readonly filename: string
  /** Default `raw`. */
  readonly format?: string | undefined
  readonly backing?:
    | {
        readonly file?: string | undefined
        readonly format?: string | undefined
        /** `-u`: do not open the backing file. A size is then required. */
        readonly unsafe?: boolean | undefined
      }
    | undefined
  readonly options?: CreateOptionInput | undefined
  /** Bytes; default: the backing file's length. */
  readonly size?: number | undefined
  /** Called with the banner (`Formatting '…', fmt=…`, no newline) right before the files are made. */
  readonly announce?: ((banner: string) => void) | undefined
}

export interface CreateImageResult {
  /** `Formatting '…', fmt=… name=value …` without newline. */
  readonly banner: string
  /** Bytes, as asked for: drivers may round it up. */
  readonly size: number
}

/**
 * Creates an image by `qemu-img create`'s rules (seed rows 20-28). A create that fails removes what
 * it made, unless the file existed before.
 *
 * @throws BlockError with QEMU's text; the tool puts `%s: ` (the file name) before it.
 */
export async function createImage(
  layer: BlockLayer,
  options: CreateImageOptions,
): Promise<CreateImageResult> {
  const { filename, format = 'raw', backing = {} } = options
  const target = createTarget(layer, format, filename)
  const values = new CreateOptions(target, options.options)
  if (options.size !== undefined) {
    if (values.text('size') !== undefined) {
      throw blockError('EINVAL', 'The image size must be specified only once')
    }
    values.set('size', options.size)
  }
  setBackingOptions(values, format, backing.file, backing.format)
  const backingFile = values.text('backing_file')
  if (backingFile !== undefined) {
    checkBackingName(filename, backingFile)
    const length = await backingLength(layer, filename, backingFile, values, backing.unsafe === true)
    if (length !== undefined && values.text('size') === undefined) {
      values.set('size', length)
    }
  }
  const size = values.number('size')
  if (size === undefined) {
    throw blockError('EINVAL', 'Image creation needs a size parameter')
  }
  const banner = values.banner(filename)
  options.announce?.(banner)
  await createChecked(layer, values, filename)
  return { banner, size }
}

/**
 * Puts the backing file of `-b`/`-B` and `-F` among the options.
 *
 * @throws BlockError `Backing file not supported for file format '%s'` and the like.
 */
export function setBackingOptions(
  values: CreateOptions,
  format: string,
  file: string | undefined,
  fileFormat: string | undefined,
): void {
  if (file !== undefined) {
    if (!values.knows('backing_file')) {
      throw blockError('EINVAL', `Backing file not supported for file format '${format}'`)
    }
    values.set('backing_file', file)
  }
  if (fileFormat !== undefined) {
    if (!values.knows('backing_fmt')) {
      throw blockError('EINVAL', `Backing file format not supported for file format '${format}'`)
    }
    values.set('backing_fmt', fileFormat)
  }
}

function checkBackingName(filename: string, backingFile: string): void {
  if (backingFile === '') {
    throw blockError('EINVAL', 'Expected backing file name, got empty string')
  }
  if (backingFile === filename) {
    throw blockError('EINVAL', 'Error: Trying to create an image with the same filename as the backing file')
  }
}

/** Length in bytes of the backing file, which must open; undefined if it is not to be opened. */
async function backingLength(
  layer: BlockLayer,
  filename: string,
  backingFile: string,
  values: CreateOptions,
  unsafe: boolean,
): Promise<number | undefined> {
  const format = values.text('backing_fmt')
  const unnamed = 'Backing file specified without backing format'
  if (unsafe) {
    if (format === undefined) {
      throw blockError('EINVAL', unnamed)
    }
    return undefined
  }
  const name = fullBackingFilename(filename, backingFile, layer.host.pathStyle)
  const node = await openBacking(layer, name, format)
  try {
    if (format === undefined) {
      throw blockError('EINVAL', unnamed, { hint: `Detected format of ${node.driver?.name ?? ''}.` })
    }
    return node.length
  } finally {
    await layer.unref(node)
  }
}

async function openBacking(layer: BlockLayer, name: string, format: string | undefined): Promise<BlockNode> {
  const options = new OptionDict([['force-share', true]])
  if (format !== undefined) {
    options.set('driver', format)
  }
  // Without I/O, encrypted images open without their secret.
  const flags: Partial<OpenFlags> = { noIo: true }
  try {
    return await layer.open(name, options, flags)
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    throw blockError(error.code, error.message, { hint: 'Could not open backing image.', cause: error })
  }
}

/** Has the driver create the image; "too large" gets the text that names the way out. */
export async function createChecked(
  layer: BlockLayer,
  values: CreateOptions,
  filename: string,
): Promise<void> {
  const { driver } = values.target
  try {
    await createWithDriver(layer, driver, filename, values.values())
  } catch (error) {
    if (codeOf(error) !== 'EFBIG') {
      throw error
    }
    const hint = (values.number('cluster_size') ?? 0) > 0 ? ' (try using a larger cluster size)' : ''
    throw blockError('EFBIG', `The image size is too large for file format '${driver.name}'${hint}`, {
      cause: error,
    })
  }
}
