import { blockError } from '../errors/index.js'
import { amendNode, Backend, type BlockNode, Perm } from '../graph/index.js'
import { OptionDict, type OptionTree, typeOption } from '../options/index.js'
import type { CommonJobOptions } from './copying.js'
import { Job, type JobDriver } from './job.js'
import { JobRegistry } from './registry.js'

export interface AmendJobOptions
  extends Pick<CommonJobOptions, 'jobId' | 'autoFinalize' | 'autoDismiss' | 'transaction'> {
  readonly node: BlockNode
  /** QAPI `BlockdevAmendOptions`: `driver`, and what is to change. */
  readonly options: OptionTree
  /** Do what may lose access to the data. */
  readonly force?: boolean | undefined
}

/**
 * A job that changes properties of an open image (`x-blockdev-amend`). Created, not started; by default
 * it stays until it is dismissed.
 *
 * @throws BlockError with QEMU's text if the image is of another driver, or cannot be amended
 */
export function createAmendJob(request: AmendJobOptions): Job {
  const { node, force = false } = request
  const options = OptionDict.fromTree(request.options)
  const name = options.getString('driver') ?? ''
  options.delete('driver')
  const driver = node.layer.findFormat(name)
  if (driver === undefined) {
    throw blockError('EINVAL', `Block driver '${name}' not found or not supported`)
  }
  if (!node.layer.isWhitelisted(driver, false)) {
    throw blockError('EINVAL', 'Driver is not whitelisted')
  }
  if (node.driver !== driver) {
    throw blockError('EINVAL', "x-blockdev-amend doesn't support changing the block driver")
  }
  const schema = driver.amendOptions
  if (schema === undefined) {
    throw blockError('EINVAL', 'Driver does not support x-blockdev-amend')
  }
  const values: Record<string, string | number | boolean> = {}
  for (const [key, value] of options.entries()) {
    const spec = Object.hasOwn(schema, key) ? schema[key] : undefined
    if (spec === undefined) {
      throw blockError('EINVAL', `Parameter '${key}' is unexpected`)
    }
    values[key] = typeOption(key, spec, value)
  }
  const { jobId, autoFinalize, autoDismiss = false, transaction } = request
  const work: JobDriver = {
    type: 'amend',
    run: async (job) => {
      job.progress.setRemaining(1)
      const user = new Backend(node.layer, { perm: Perm.consistentRead | Perm.write | Perm.resize })
      try {
        await user.insert(node)
        await amendNode({ node, options: values, force })
      } finally {
        job.progress.update(1)
        await user.close()
      }
    },
  }
  return new Job(JobRegistry.of(node.layer), work, { id: jobId, autoFinalize, autoDismiss, transaction })
}
