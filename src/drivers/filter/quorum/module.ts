import { blockError, errnoError } from '../../../errors/index.js'
import { type BlockChild, type OpenContext, Role } from '../../../graph/index.js'
import { type OptionDict, takeOptions } from '../../../options/index.js'
import { quorumOptions } from './options.js'
import { type QuorumSettings, QuorumState } from './state.js'

/** How many children the options describe: `children.0` or `children.0.*` and so on without gaps. */
function countChildren(options: OptionDict): number {
  const indices = new Set<number>()
  for (const key of options.keys()) {
    const [, index] = /^children\.(?:(\d+)(?:\.|$))?/.exec(key) ?? [undefined, null]
    if (index === undefined) {
      throw blockError('EINVAL', 'Option children is not a valid array')
    }
    if (index !== null) {
      indices.add(Number(index))
    }
  }
  if (indices.size === 0) {
    throw blockError('EINVAL', 'Number of provided children must be 1 or more')
  }
  if (Math.max(...indices) !== indices.size - 1) {
    throw blockError('EINVAL', 'Option children is not a valid array')
  }
  return indices.size
}

function takeSettings(options: OptionDict, children: number): QuorumSettings {
  const given = takeOptions(options, quorumOptions)
  const threshold = given['vote-threshold'] ?? 0
  if (threshold < 1) {
    throw blockError('ERANGE', "Parameter 'vote-threshold' expects a value >= 1")
  }
  if (threshold > children) {
    throw blockError('ERANGE', 'threshold may not exceed children count')
  }
  const pattern = given['read-pattern'] ?? 'quorum'
  if (pattern !== 'quorum' && pattern !== 'fifo') {
    throw blockError('EINVAL', 'Please set read-pattern as fifo or quorum')
  }
  const settings = { threshold, fifo: pattern === 'fifo', verify: false, rewrite: false }
  if (settings.fifo) {
    return settings
  }
  settings.verify = given.blkverify ?? false
  if (settings.verify && (children !== 2 || threshold !== 2)) {
    throw blockError(
      'EINVAL',
      'blkverify=on can only be set if there are exactly two files and vote-threshold is 2',
    )
  }
  settings.rewrite = given['rewrite-corrupted'] ?? false
  if (settings.rewrite && settings.verify) {
    throw blockError('EINVAL', 'rewrite-corrupted=on cannot be used with blkverify=on')
  }
  return settings
}

export async function open(context: OpenContext): Promise<QuorumState> {
  const count = countChildren(context.options)
  const settings = takeSettings(context.options, count)
  const children: BlockChild[] = []
  for (let index = 0; index < count; index++) {
    children.push(await context.openNamedChild(`children.${index}`, Role.data, undefined))
  }
  if (children.some((child) => child.node.length !== children[0]?.node.length)) {
    throw errnoError('EIO', 'Could not refresh total sector count')
  }
  return new QuorumState(context.node, children, settings)
}
