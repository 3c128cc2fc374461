import { blockError, codeOf } from '../errors/index.js'
import {
  Backend,
  type BlockDriver,
  type BlockLayer,
  type BlockNode,
  createWithDriver,
  Perm,
  truncateNode,
} from '../graph/index.js'
import {
  OptionDict,
  type OptionSchema,
  type OptionTree,
  type OptionValue,
  typeOption,
} from '../options/index.js'
import type { CommonJobOptions } from './copying.js'
import { Job, type JobDriver } from './job.js'
import { JobRegistry } from './registry.js'

/** Drivers that make images only together with their file. */
const needFilename = ['raw', 'host_device']

export interface CreateJobOptions
  extends Pick<CommonJobOptions, 'jobId' | 'autoFinalize' | 'autoDismiss' | 'transaction'> {
  /**
   * QAPI `BlockdevCreateOptions`: `driver`, `size` (bytes), for formats `file` (a node by name), for
   * `file` its `filename`, and what the driver takes.
   */
  readonly options: OptionTree
}

/**
 * A job that makes an image in a node, or a file (`blockdev-create`). Created, not started; by default it
 * stays until it is dismissed.
 *
 * @throws BlockError `Block driver '%s' not found or not supported`, `Driver does not support blockdev-create`
 */
export function createCreateJob(layer: BlockLayer, request: CreateJobOptions): Job {
  const options = OptionDict.fromTree(request.options)
  const name = options.getString('driver') ?? ''
  options.delete('driver')
  const driver = layer.findFormat(name)
  if (driver === undefined) {
    throw blockError('EINVAL', `Block driver '${name}' not found or not supported`)
  }
  if (!layer.isWhitelisted(driver, false)) {
    throw blockError('EINVAL', 'Driver is not whitelisted')
  }
  if (driver.createOptions === undefined || needFilename.includes(driver.name)) {
    throw blockError('EINVAL', 'Driver does not support blockdev-create')
  }
  const { jobId, autoFinalize, autoDismiss = false, transaction } = request
  const work: JobDriver = {
    type: 'create',
    run: async (job) => {
      job.progress.setRemaining(1)
      try {
        await (driver.kind === 'protocol'
          ? createProtocol(layer, driver, options)
          : createFormat(layer, driver, options))
      } finally {
        job.progress.update(1)
      }
    },
  }
  return new Job(JobRegistry.of(layer), work, { id: jobId, autoFinalize, autoDismiss, transaction })
}

async function createProtocol(layer: BlockLayer, driver: BlockDriver, options: OptionDict): Promise<void> {
  const filename = options.getString('filename')
  if (filename === undefined) {
    throw blockError('EINVAL', "Parameter 'filename' is missing")
  }
  options.delete('filename')
  await createWithDriver(layer, driver, filename, createValues(driver, options))
}

async function createFormat(layer: BlockLayer, driver: BlockDriver, options: OptionDict): Promise<void> {
  const reference = options.getString('file')
  if (reference === undefined) {
    throw blockError('EINVAL', "Parameter 'file' is missing")
  }
  options.delete('file')
  const values = createValues(driver, options)
  const module = await layer.loadDriver(driver)
  if (module.create === undefined) {
    throw blockError('ENOTSUP', 'Driver does not support blockdev-create')
  }
  const file = layer.lookup(reference, reference)
  const user = new Backend(layer, { perm: Perm.write | Perm.resize })
  try {
    await user.insert(file)
    await module.create({
      layer,
      host: layer.host,
      filename: file.filename,
      options: values,
      exact: true,
      createFile: async (size) => {
        await empty(file, size)
        // The driver opens the image in the file while it makes it.
        await user.setPermissions(0, Perm.all)
        return file
      },
      // Further files are there already as well: QAPI names their nodes.
      createFurtherFile: async (name) => layer.lookup(name, name),
    })
  } finally {
    await user.close()
  }
}

/** What was in the file is gone; a device is taken as it is if it is large enough. */
async function empty(file: BlockNode, size: number): Promise<void> {
  const how = { exact: false, preallocation: 'off', zero: false } as const
  try {
    await truncateNode(file, 0, how)
  } catch (error) {
    if (codeOf(error) !== 'ENOTSUP') {
      throw error
    }
  }
  if (file.length < size) {
    await truncateNode(file, size, how)
  }
}

/** Create options from what QAPI calls them. @throws BlockError for unknown ones and values of another type */
function createValues(driver: BlockDriver, options: OptionDict): Record<string, string | number | boolean> {
  const schema: OptionSchema = driver.createOptions ?? {}
  const values: Record<string, string | number | boolean> = {}
  for (const [key, value] of options.entries()) {
    const [name, translated] = createOption(schema, key, value)
    const spec = Object.hasOwn(schema, name) ? schema[name] : undefined
    if (spec === undefined) {
      throw blockError('EINVAL', `Parameter '${key}' is unexpected`)
    }
    values[name] = typeOption(key, spec, translated)
  }
  return values
}

const compat: Readonly<Record<string, string>> = { v2: '0.10', v3: '1.1' }

function createOption(schema: OptionSchema, key: string, value: OptionValue): [string, OptionValue] {
  if (key === 'version' && Object.hasOwn(schema, 'compat')) {
    return ['compat', compat[String(value)] ?? value]
  }
  if (key === 'preallocation' && schema.preallocation === undefined && schema.static !== undefined) {
    if (value !== 'off' && value !== 'metadata') {
      throw blockError('EINVAL', 'Preallocation mode not supported for vdi')
    }
    return ['static', value === 'metadata']
  }
  const underlined = key.replaceAll('-', '_')
  return [Object.hasOwn(schema, underlined) ? underlined : key, value]
}
