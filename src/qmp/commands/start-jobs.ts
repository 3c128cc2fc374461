import { blockError } from '../../errors/index.js'
import {
  type BlockLayer,
  type BlockNode,
  backingChainNext,
  chainContains,
  checkNotBlocked,
  checkToReplaceNode,
  cumulativePermissions,
  findBackingImage,
  findBase,
  findOverlay,
  Perm,
  skipFilters,
} from '../../graph/index.js'
import {
  type BlockJob,
  createActiveCommit,
  createAmendJob,
  createCommit,
  createCreateJob,
  createMirror,
  createStream,
} from '../../jobs/index.js'
import type { OptionTree } from '../../options/index.js'
import type { CommandContext } from '../context.js'
import { type CommandHandlers, defineHandlers } from '../handlers.js'
import type { ArgumentsOf } from '../schema/types.js'
import { runActions } from '../transaction.js'
import { prepareBackup, prepareDriveBackup } from './backups.js'
import { type CommonArguments, commonOptions, jobIdFor } from './job-options.js'
import { rootBlockNode } from './snapshots.js'
import { openTarget } from './targets.js'

/** Commands that start a job. */
export function jobStartCommands({ layer }: CommandContext): CommandHandlers {
  return defineHandlers({
    'block-stream': async (args) => (await stream(layer, args)).start(),
    'block-commit': async (args) => (await commit(layer, args)).start(),
    'blockdev-mirror': async (args) => {
      const node = rootBlockNode(layer, args.device)
      const target = layer.lookup(args.target, args.target)
      ;(await mirror(node, target, args)).start()
    },
    'drive-mirror': async (args) => {
      const node = rootBlockNode(layer, args.device)
      checkNotBlocked(node, 'mirror-source')
      const existing = args.mode === 'existing'
      const sync = args.sync === 'top' && backingChainNext(node) === undefined ? 'full' : args.sync
      const target = await openTarget(node, {
        filename: args.target,
        format: args.format ?? (existing ? undefined : node.driver?.name),
        nodeName: args['node-name'],
        create: !existing,
        backing: sync === 'full' ? undefined : sync === 'top' ? backingChainNext(node) : node,
      })
      try {
        const job = await mirror(node, target, {
          ...args,
          sync,
          backing: existing ? 'open' : sync === 'none' || sync === 'top' ? 'source' : 'leave',
          zeroTarget: sync === 'full' && existing,
        })
        job.start()
      } finally {
        await layer.unref(target)
      }
    },
    'blockdev-backup': async (args) => await runActions([() => prepareBackup(layer, args)]),
    'drive-backup': async (args) => await runActions([() => prepareDriveBackup(layer, args)]),
    'blockdev-create': (args) => {
      createCreateJob(layer, {
        jobId: args['job-id'],
        options: args.options as unknown as OptionTree,
      }).start()
    },
    'x-blockdev-amend': (args) => {
      const node = layer.lookup(undefined, args['node-name'])
      createAmendJob({
        jobId: args['job-id'],
        node,
        options: args.options as unknown as OptionTree,
        force: args.force,
      }).start()
    },
  })
}

function exclusive(first: readonly [string, unknown], second: readonly [string, unknown]): void {
  if (first[1] !== undefined && second[1] !== undefined) {
    throw blockError('EINVAL', `'${first[0]}' and '${second[0]}' cannot be specified at the same time`)
  }
}

/** `block-stream`. @throws BlockError with QEMU's text */
async function stream(layer: BlockLayer, args: ArgumentsOf<'block-stream'>): Promise<BlockJob> {
  const { device, base, 'base-node': baseNode, bottom: bottomName } = args
  const node = layer.lookup(device, device)
  exclusive(['base', base], ['base-node', baseNode])
  exclusive(['base', base], ['bottom', bottomName])
  exclusive(['bottom', bottomName], ['base-node', baseNode])
  let stop: BlockNode | undefined
  let bottom: BlockNode | undefined
  if (base !== undefined) {
    stop = findBackingImage(node, base)
    if (stop === undefined) {
      throw blockError('ENOENT', `Can't find '${base}' in the backing chain`)
    }
  }
  if (baseNode !== undefined) {
    stop = layer.lookup(undefined, baseNode)
    if (stop === node || !chainContains(node, stop)) {
      throw blockError('EINVAL', `Node '${baseNode}' is not a backing image of '${device}'`)
    }
  }
  if (bottomName !== undefined) {
    bottom = layer.lookup(undefined, bottomName)
    if (bottom.isFilter) {
      throw blockError('EINVAL', `Node '${bottomName}' is a filter, use a non-filter node as 'bottom'`)
    }
    if (!chainContains(node, bottom)) {
      throw blockError('EINVAL', `Node '${bottomName}' is not in a chain starting from '${device}'`)
    }
  }
  const end = bottom === undefined ? stop : below(bottom)
  for (let at: BlockNode | undefined = node; at !== undefined && at !== end; at = below(at)) {
    checkNotBlocked(at, 'stream')
  }
  if (end === undefined && args['backing-file'] !== undefined) {
    throw blockError('EINVAL', 'backing file specified, but streaming the entire chain')
  }
  return await createStream({
    ...commonOptions(args),
    jobId: jobIdFor(node, args['job-id']),
    node,
    base: stop,
    bottom,
    backingFile: args['backing-file'],
    onError: args['on-error'],
  })
}

function below(node: BlockNode): BlockNode | undefined {
  return node.backing ?? node.filterNode
}

/** `block-commit`. @throws BlockError with QEMU's text */
async function commit(layer: BlockLayer, args: ArgumentsOf<'block-commit'>): Promise<BlockJob> {
  const { device, top: topFile, 'top-node': topNode, base: baseFile, 'base-node': baseNode } = args
  if (layer.findBackend(device) === undefined && layer.findNode(device) === undefined) {
    throw blockError('ENODEV', `Device '${device}' not found`, { errorClass: 'DeviceNotFound' })
  }
  const node = rootBlockNode(layer, device)
  checkNotBlocked(node, 'commit-source')
  let top: BlockNode | undefined = node
  if (topNode !== undefined && topFile !== undefined) {
    throw blockError('EINVAL', "'top-node' and 'top' are mutually exclusive")
  }
  if (topNode !== undefined) {
    top = layer.lookup(undefined, topNode)
    if (!chainContains(node, top)) {
      throw blockError('EINVAL', `'${topNode}' is not in this backing file chain`)
    }
  } else if (topFile !== undefined && node.filename !== topFile) {
    top = findBackingImage(node, topFile)
  }
  if (top === undefined) {
    throw blockError('ENOENT', `Top image file ${topFile ?? '(null)'} not found`)
  }
  const base = commitBase(layer, top, baseFile, baseNode)
  for (let at: BlockNode | undefined = top; at !== undefined && at !== below(base); at = below(at)) {
    checkNotBlocked(at, 'commit-target')
  }
  if (top === base) {
    throw blockError('EINVAL', 'cannot commit an image into itself')
  }
  const isActive = skipFilters(top) === skipFilters(node)
  const common = { ...commonOptions(args), onError: args['on-error'] }
  const backingFile = args['backing-file']
  if (isActive || (cumulativePermissions(top).perm & Perm.write) !== 0) {
    if (backingFile !== undefined) {
      throw blockError(
        'EINVAL',
        isActive
          ? "'backing-file' specified, but 'top' is the active layer"
          : "'backing-file' specified, but 'top' has a writer on it",
      )
    }
    return await createActiveCommit({
      ...common,
      jobId: jobIdFor(node, args['job-id']),
      node: top,
      base,
    })
  }
  const overlay = findOverlay(node, top)
  if (overlay !== undefined) {
    checkNotBlocked(overlay, 'commit-target')
  }
  return await createCommit({
    ...common,
    jobId: jobIdFor(node, args['job-id']),
    node,
    top,
    base,
    backingFile,
  })
}

function commitBase(
  layer: BlockLayer,
  top: BlockNode,
  file: string | undefined,
  nodeName: string | undefined,
): BlockNode {
  if (nodeName !== undefined && file !== undefined) {
    throw blockError('EINVAL', "'base-node' and 'base' are mutually exclusive")
  }
  if (nodeName !== undefined) {
    const base = layer.lookup(undefined, nodeName)
    if (!chainContains(top, base)) {
      throw blockError('EINVAL', `'${nodeName}' is not in this backing file chain`)
    }
    return base
  }
  const base = file === undefined ? findBase(top) : findBackingImage(top, file)
  if (base === undefined) {
    throw file === undefined
      ? blockError('EINVAL', 'There is no backimg image')
      : blockError('ENOENT', `Can't find '${file}' in the backing chain`)
  }
  return base
}

interface MirrorArguments extends CommonArguments {
  readonly 'job-id'?: string | undefined
  readonly device: string
  readonly sync: ArgumentsOf<'blockdev-mirror'>['sync']
  readonly replaces?: string | undefined
  readonly granularity?: number | undefined
  readonly 'buf-size'?: number | undefined
  readonly 'copy-mode'?: ArgumentsOf<'blockdev-mirror'>['copy-mode']
  readonly 'on-source-error'?: ArgumentsOf<'blockdev-mirror'>['on-source-error']
  readonly 'on-target-error'?: ArgumentsOf<'blockdev-mirror'>['on-target-error']
  readonly unmap?: boolean | undefined
  readonly backing?: 'source' | 'open' | 'leave'
  readonly zeroTarget?: boolean
}

const maxGranularity = 64 << 20

/** `blockdev-mirror`, and what `drive-mirror` comes to. @throws BlockError with QEMU's text */
async function mirror(node: BlockNode, target: BlockNode, args: MirrorArguments): Promise<BlockJob> {
  const { granularity, replaces } = args
  if (granularity !== undefined && granularity !== 0) {
    if (granularity < 512 || granularity > maxGranularity) {
      throw blockError('EINVAL', "Parameter 'granularity' expects a value in range [512B, 64MB]")
    }
    if (!Number.isInteger(Math.log2(granularity))) {
      throw blockError('EINVAL', "Parameter 'granularity' expects a power of 2")
    }
  }
  checkNotBlocked(node, 'mirror-source')
  checkNotBlocked(target, 'mirror-target')
  const sync = args.sync === 'top' && backingChainNext(node) === undefined ? 'full' : args.sync
  if (replaces !== undefined) {
    const replaced = checkToReplaceNode(node, replaces)
    if (replaced.length !== node.length) {
      throw blockError('EINVAL', 'cannot replace image with a mirror image of different size')
    }
  }
  return await createMirror({
    ...commonOptions(args),
    jobId: jobIdFor(node, args['job-id']),
    node,
    target,
    sync,
    granularity,
    bufferBytes: args['buf-size'],
    copyMode: args['copy-mode'],
    replaces,
    unmap: args.unmap,
    onSourceError: args['on-source-error'],
    onTargetError: args['on-target-error'],
    backing: args.backing,
    zeroTarget: args.zeroTarget,
  })
}
