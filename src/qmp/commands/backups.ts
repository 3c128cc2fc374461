import { blockError, isBlockError } from '../../errors/index.js'
import {
  type BlockLayer,
  type BlockNode,
  backingChainNext,
  checkNotBlocked,
  isInserted,
} from '../../graph/index.js'
import { type BlockJob, createBackup, type JobTransaction } from '../../jobs/index.js'
import type { TypeOf } from '../schema/types.js'
import type { PreparedAction } from '../transaction.js'
import { commonOptions, jobIdFor } from './job-options.js'
import { openTarget } from './targets.js'

type BackupArguments = Omit<TypeOf<'BlockdevBackup'>, 'target'>

/** `blockdev-backup`: the job is made, and started with the transaction. @throws BlockError with QEMU's text */
export async function prepareBackup(
  layer: BlockLayer,
  args: TypeOf<'BlockdevBackup'>,
  transaction?: JobTransaction,
): Promise<PreparedAction> {
  const node = layer.lookup(args.device, args.device)
  const target = layer.lookup(args.target, args.target)
  return started(await makeJob(node, target, args, transaction))
}

/** `drive-backup`. @throws BlockError with QEMU's text */
export async function prepareDriveBackup(
  layer: BlockLayer,
  args: TypeOf<'DriveBackup'>,
  transaction?: JobTransaction,
): Promise<PreparedAction> {
  const node = layer.lookup(args.device, args.device)
  if (!isInserted(node)) {
    throw blockError('ENOMEDIUM', `Device '${args.device}' has no medium`)
  }
  checkNotBlocked(node, 'backup-source')
  const existing = args.mode === 'existing'
  const sync = args.sync === 'top' && backingChainNext(node) === undefined ? 'full' : args.sync
  const target = await openTarget(node, {
    filename: args.target,
    format: args.format ?? (existing ? undefined : node.driver?.name),
    create: !existing,
    backing: sync === 'top' ? backingChainNext(node) : sync === 'none' ? node : undefined,
  })
  try {
    return started(await makeJob(node, target, { ...args, sync }, transaction))
  } finally {
    await layer.unref(target)
  }
}

async function makeJob(
  node: BlockNode,
  target: BlockNode,
  args: BackupArguments,
  transaction: JobTransaction | undefined,
): Promise<BlockJob> {
  const perf = args['x-perf']
  return await createBackup({
    ...commonOptions(args),
    jobId: jobIdFor(node, args['job-id']),
    node,
    target,
    sync: args.sync,
    bitmap: args.bitmap,
    bitmapMode: args['bitmap-mode'],
    compress: args.compress,
    onSourceError: args['on-source-error'],
    onTargetError: args['on-target-error'],
    maxWorkers: perf?.['max-workers'],
    maxChunk: perf?.['max-chunk'],
    transaction,
  })
}

function started(job: BlockJob): PreparedAction {
  return {
    commit: () => job.start(),
    abort: async () => {
      job.cancel(true)
      try {
        await job.wait()
      } catch (error) {
        if (!isBlockError(error)) {
          throw error
        }
        // Cancelled, as was wanted.
      }
    },
  }
}
