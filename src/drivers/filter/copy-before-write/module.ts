import { HierarchicalBitmap } from '../../../bytes/index.js'
import { blockError, codeOf, errnoError } from '../../../errors/index.js'
import {
  type BlockNode,
  backingChainNext,
  type DriverInfo,
  driverInfo,
  lookupDirtyBitmap,
  type OpenContext,
  Role,
} from '../../../graph/index.js'
import { type OptionDict, takeOptions } from '../../../options/index.js'
import { monotonicClock } from '../../../sched/index.js'
import { copyBeforeWriteOptions } from './options.js'
import { CopyBeforeWrite } from './state.js'

const defaultClusterSize = 65536
const onErrorWords = copyBeforeWriteOptions['on-cbw-error'].values

/** @throws BlockError with QEMU's text */
export async function open(context: OpenContext): Promise<CopyBeforeWrite> {
  const { file, host, node, options } = context
  if (!options.keys().some((key) => key === 'target' || key.startsWith('target.'))) {
    throw blockError('EINVAL', "Parameter 'target' is missing")
  }
  const given = takeOptions(options, copyBeforeWriteOptions)
  const onError = given['on-cbw-error'] ?? 'break-guest-write'
  if (!onErrorWords.includes(onError)) {
    throw blockError('EINVAL', `Parameter 'on-cbw-error' does not accept value '${onError}'`)
  }
  const bitmapName = takeBitmap(options)
  const target = await context.openChild('target', Role.data)
  if (target === undefined) {
    throw blockError('EINVAL', "Parameter 'target' is missing")
  }
  if (target.node.readOnly) {
    throw blockError('EPERM', 'Block node is read-only')
  }
  const clusterSize = copyClusterSize(target.node, (line) => {
    host.warn(line)
  })
  const access = new HierarchicalBitmap(file.node.length, clusterSize)
  if (bitmapName === undefined) {
    access.set(0, file.node.length)
  } else {
    markDirty(context, bitmapName, access)
  }
  return new CopyBeforeWrite(node, file, target, {
    access,
    clusterSize,
    breakSnapshot: onError === 'break-snapshot',
    timeout: (given['cbw-timeout'] ?? 0) * 1e9,
    clock: host.clock ?? monotonicClock,
  })
}

interface BitmapName {
  readonly node: string
  readonly name: string
}

function takeBitmap(options: OptionDict): BitmapName | undefined {
  const sub = options.takeSubtree('bitmap.')
  if (sub.size === 0) {
    return undefined
  }
  const [node, name] = ['node', 'name'].map((key) => {
    const value = sub.take(key)
    if (typeof value !== 'string') {
      throw blockError('EINVAL', `Parameter 'bitmap.${key}' is missing`)
    }
    return value
  })
  return { node: node as string, name: name as string }
}

/** Only what the bitmap has as dirty is part of the snapshot. */
function markDirty({ layer }: OpenContext, { node, name }: BitmapName, access: HierarchicalBitmap): void {
  const found = lookupDirtyBitmap(layer, node, name)
  found.check({ readonly: true })
  const size = Math.min(found.size, access.size)
  for (let at = found.nextDirty(0); at >= 0 && at < size; ) {
    const zero = found.nextZero(at)
    const end = zero < 0 ? size : Math.min(zero, size)
    access.set(at, end - at)
    at = zero < 0 ? -1 : found.nextDirty(zero)
  }
}

/**
 * Bytes copied at once: at least what the target allocates at once, so that nothing of a cluster that
 * was not copied shows there.
 *
 * @throws BlockError if the target's clusters are unknown for a reason other than that it has none
 */
function copyClusterSize(target: BlockNode, warn: (line: string) => void): number {
  const hasBacking = backingChainNext(target) !== undefined
  let info: DriverInfo | undefined
  try {
    info = driverInfo(target)
  } catch (error) {
    if (!hasBacking) {
      throw errnoError(
        codeOf(error),
        "Couldn't determine the cluster size of the target image, which has no backing file",
        { hint: 'Aborting, since this may create an unusable destination image', cause: error },
      )
    }
    // Its backing file shows through where nothing is copied.
    return defaultClusterSize
  }
  if (info === undefined && !hasBacking) {
    warn(
      "warning: The target block device doesn't provide information about the block size and it doesn't have " +
        `a backing file. The default block size of ${defaultClusterSize} bytes is used. If the actual block ` +
        'size of the target exceeds this default, the backup may be unusable',
    )
  }
  return Math.max(defaultClusterSize, info?.clusterSize ?? 0)
}
