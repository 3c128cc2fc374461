import { blockError, prefixed } from '../errors/index.js'
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

/** What a measurement needs of the target: its driver and its options. */
export class MeasureTarget {
  readonly values: CreateOptions

  /**
   * @throws BlockError `Unknown file format '%s'`, `Format driver '%s' does not support image creation`,
   *   or why the options are wrong, followed by `Invalid options for file format '%s'`.
   */
  constructor(layer: BlockLayer, format: string, options: CreateOptionInput | undefined) {
    const driver = layer.findFormat(format)
    if (driver === undefined) {
      throw blockError('EINVAL', `Unknown file format '${format}'`)
    }
    if (driver.createOptions === undefined) {
      throw blockError('ENOTSUP', `Format driver '${driver.name}' does not support image creation`)
    }
    // Where the target would be is not known: a file's options count.
    const protocol = layer.findFormat('file') ?? driver
    const schema = { ...protocol.createOptions, ...driver.createOptions }
    this.values = new CreateOptions({ driver, protocol, schema }, options)
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
  const { values } = new MeasureTarget(layer, options.format ?? 'raw', options.options)
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
