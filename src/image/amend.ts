import { type BlockError, blockError, isBlockError } from '../errors/index.js'
import { amendNode, type Backend, type BlockLayer } from '../graph/index.js'
import {
  OptionDict,
  type OptionSchema,
  type OptionTree,
  parseOptionText,
  typeOption,
} from '../options/index.js'
import type { LongRun } from './long-run.js'

export interface AmendImageOptions extends LongRun {
  /** Options as `-o` gives them, or as values. Only what is given changes. */
  readonly options: string | OptionDict | OptionTree
  /** Do what may lose access to the data, such as erasing the last key. */
  readonly force?: boolean | undefined
}

/**
 * The amend options of a format.
 *
 * @throws BlockError EINVAL `Unknown file format '%s'`, ENOTSUP
 *   `Format driver '%s' does not support option amendment`
 */
export function amendSchema(layer: BlockLayer, format: string): OptionSchema {
  const driver = layer.findFormat(format)
  if (driver === undefined) {
    throw blockError('EINVAL', `Unknown file format '${format}'`)
  }
  if (driver.amendOptions === undefined) {
    throw blockError('ENOTSUP', `Format driver '${format}' does not support option amendment`)
  }
  return driver.amendOptions
}

/**
 * Changes properties of an image in place. It must have been opened for writing and with `resize`.
 *
 * @throws BlockError `Format driver '%s' does not support option amendment`, `Invalid parameter '%s'`, why a
 *   value does not fit its option, or the driver's own
 */
export async function amendImage(image: Backend, request: AmendImageOptions): Promise<void> {
  const { node, layer } = image
  const options = typedOptions(layer, node.driver?.name ?? '', request.options)
  await amendNode({
    node,
    options,
    force: request.force === true,
    ...(request.progress === undefined ? {} : { progress: request.progress }),
    ...(request.signal === undefined ? {} : { signal: request.signal }),
  })
}

function typedOptions(
  layer: BlockLayer,
  format: string,
  given: AmendImageOptions['options'],
): Record<string, string | number | boolean> {
  const schema = amendSchema(layer, format)
  const createSchema = layer.findFormat(format)?.createOptions ?? {}
  const pairs =
    typeof given === 'string'
      ? [...parseOptionText(given)]
      : [...(given instanceof OptionDict ? given : OptionDict.fromTree(given)).entries()]
  const values: Record<string, string | number | boolean> = {}
  try {
    for (const [name, value] of pairs) {
      const spec = Object.hasOwn(schema, name) ? schema[name] : undefined
      if (spec === undefined) {
        throw blockError('EINVAL', `Invalid parameter '${name}'`)
      }
      values[name] = typeOption(name, spec, value)
    }
  } catch (error) {
    throw isBlockError(error) && fits(pairs, { ...schema, ...createSchema }) ? onlyForCreation(error) : error
  }
  return values
}

/** Whether all options are known to create, with these values. */
function fits(pairs: readonly (readonly [string, unknown])[], schema: OptionSchema): boolean {
  try {
    for (const [name, value] of pairs) {
      const spec = Object.hasOwn(schema, name) ? schema[name] : undefined
      if (spec === undefined) {
        return false
      }
      typeOption(name, spec, value as string)
    }
    return true
  } catch {
    return false
  }
}

function onlyForCreation(error: BlockError): BlockError {
  return blockError(error.code, error.message, {
    hint: 'This option is only supported for image creation',
    cause: error,
  })
}
