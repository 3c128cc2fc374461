import { blockError, isBlockError } from '../errors/index.js'
import type { Backend, BlockLayer, MeasureResult } from '../graph/index.js'
import { type CreateOptionInput, CreateOptions } from './create-options.js'

export interface MeasureImageOptions {
  /** Target format; default `raw`. */
  readonly format?: string | undefined
  readonly options?: CreateOptionInput | undefined
  /** The image to be converted; excludes `size`. */
  readonly source?: Backend | undefined
  /** Guest bytes of an empty image; excludes `source`. */
  readonly size?: number | undefined
}

/** What errors in the create options are marked with. */
const optionsPlace = 'measure options'

/** The line `qemu-img measure` prints after an error of {@link measureImage}, if there is one. */
export function measureErrorLine(error: unknown, format: string): string | undefined {
  const about = isBlockError(error) ? error.at?.operation : undefined
  return about === optionsPlace ? `Invalid options for file format '${format}'` : undefined
}

/** Finds the drivers of a target that has no name yet, and reads the options for it. */
function measureOptions(
  layer: BlockLayer,
  format: string,
  input: CreateOptionInput | undefined,
): CreateOptions {
  const driver = layer.findFormat(format)
  if (driver === undefined) {
    throw blockError('EINVAL', `Unknown file format '${format}'`)
  }
  if (driver.createOptions === undefined) {
    throw blockError('ENOTSUP', `Format driver '${driver.name}' does not support image creation`)
  }
  const protocol = layer.findFormat('file') ?? driver
  const schema = { ...protocol.createOptions, ...driver.createOptions }
  try {
    return new CreateOptions({ driver, protocol, schema }, input)
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    const { code, message, hint } = error
    throw blockError(code, message, { hint, at: { operation: optionsPlace }, cause: error })
  }
}

/**
 * How many bytes a target would need: `qemu-img measure`.
 *
 * @throws BlockError `Unknown file format '%s'`, `Format driver '%s' does not support image creation`,
 *   `Block driver '%s' does not support size measurement`, or the driver's own
 */
export async function measureImage(layer: BlockLayer, options: MeasureImageOptions): Promise<MeasureResult> {
  if ((options.source === undefined) === (options.size === undefined)) {
    throw blockError('EINVAL', 'Either --size N or one filename must be specified.')
  }
  const values = measureOptions(layer, options.format ?? 'raw', options.options)
  if (options.size !== undefined) {
    values.set('size', options.size)
  }
  const { driver } = values.target
  const module = await layer.loadDriver(driver)
  if (module.measure === undefined) {
    throw blockError('ENOTSUP', `Block driver '${driver.name}' does not support size measurement`)
  }
  const source = options.source?.node
  return await module.measure({
    layer,
    options: values.values(),
    ...(source === undefined ? {} : { source }),
  })
}
