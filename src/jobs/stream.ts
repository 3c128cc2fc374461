import { blockError } from '../errors/index.js'
import {
  type BlockNode,
  changeBackingFile,
  checkChainNotFrozen,
  checkNotBlocked,
  findOverlay,
  freezeChain,
  Perm,
  reopenSetReadOnly,
  setBacking,
  skipFilters,
  unfreezeChain,
} from '../graph/index.js'
import { BlockStatus, ChainStatus, chainStatus } from '../io/index.js'
import type { BlockJob, BlockJobDriver, JobOnError } from './block-job.js'
import { type CommonJobOptions, handleError, makeBlockJob, settled } from './copying.js'
import { dropFilter, insertFilter } from './filter-node.js'

export interface StreamOptions extends CommonJobOptions {
  /** The image that takes the data in. */
  readonly node: BlockNode
  /** What stays its backing file; default: nothing. */
  readonly base?: BlockNode | undefined
  /** The lowest image whose data is taken in; instead of `base`, and excludes it. */
  readonly bottom?: BlockNode | undefined
  /** Name of the backing file to record in the image; default: that of the base. */
  readonly backingFile?: string | undefined
  /** Default `report`. */
  readonly onError?: JobOnError | undefined
}

/** Bytes copied at a time. */
const chunkBytes = 512 * 1024

const sharedBasic = Perm.consistentRead | Perm.writeUnchanged

/** The next node down a chain, filters included. */
export function nextBelow(node: BlockNode): BlockNode | undefined {
  return node.backing ?? node.filterNode
}

/**
 * A job that copies what the backing files hold into the image, then cuts them off (`block-stream`).
 * Created, not started. The chain down to the base cannot be changed meanwhile.
 *
 * @throws BlockError if the chain is in use by another job, or permissions conflict
 */
export async function createStream(options: StreamOptions): Promise<BlockJob> {
  const { node, base, bottom } = options
  const baseOverlay = bottom ?? findOverlay(node, base)
  if (baseOverlay === undefined) {
    throw blockError('EINVAL', `'${base?.name ?? ''}' is not in the backing chain of '${node.name}'`)
  }
  const stop = bottom === undefined ? base : nextBelow(bottom)
  let above = baseOverlay
  for (let below = nextBelow(above); below !== undefined && below !== stop; below = nextBelow(above)) {
    above = below
  }
  for (let at: BlockNode | undefined = node; at !== undefined && at !== stop; at = nextBelow(at)) {
    checkNotBlocked(at, 'stream')
  }
  checkChainNotFrozen(node, above)
  const wasReadOnly = node.readOnly
  if (wasReadOnly) {
    await reopenSetReadOnly(node, false)
  }
  let filter: BlockNode | undefined
  try {
    filter = await insertFilter(node, 'copy-on-read', options.filterNodeName, { bottom: baseOverlay.name })
    // The filter has frozen what is above the overlay of the base; filters may stand between the two.
    freezeChain(baseOverlay, above)
    const driver = new Stream(options, filter, baseOverlay, above, wasReadOnly)
    const top = filter
    return await makeBlockJob(node, driver, options, async (job) => {
      await job.addNode('main node', top, Perm.consistentRead, sharedBasic | Perm.write)
      await job.addNode('active node', node, 0, sharedBasic | Perm.write)
      for (let at = nextBelow(node); at !== undefined && at !== stop; at = nextBelow(at)) {
        await job.addNode('intermediate node', at, 0, sharedBasic)
      }
    })
  } catch (error) {
    if (filter !== undefined) {
      unfreezeChain(baseOverlay, above)
      await dropFilter(filter)
    }
    if (wasReadOnly) {
      await reopenSetReadOnly(node, true)
    }
    throw error
  }
}

class Stream implements BlockJobDriver {
  readonly type = 'stream'
  readonly #options: StreamOptions
  #filter: BlockNode | undefined
  readonly #baseOverlay: BlockNode
  readonly #above: BlockNode
  readonly #wasReadOnly: boolean

  constructor(
    options: StreamOptions,
    filter: BlockNode,
    baseOverlay: BlockNode,
    above: BlockNode,
    wasReadOnly: boolean,
  ) {
    this.#options = options
    this.#filter = filter
    this.#baseOverlay = baseOverlay
    this.#above = above
    this.#wasReadOnly = wasReadOnly
  }

  async run(job: BlockJob): Promise<void> {
    const image = skipFilters(this.#options.node)
    const filter = this.#filter
    if (image === undefined || filter === undefined || image === this.#baseOverlay) {
      return
    }
    const { length } = image
    const buffer = new Uint8Array(Math.min(chunkBytes, length))
    const { onError = 'report' } = this.#options
    let failure: unknown
    job.progress.setRemaining(length)
    for (let offset = 0; offset < length; ) {
      await job.breathe()
      if (job.isCancelled) {
        return
      }
      let bytes = 0
      try {
        const part = await this.#nextPart(image, offset, Math.min(chunkBytes, length - offset))
        if (part.copy) {
          await settled(filter.read(offset, part.bytes, buffer, 0, 0))
          job.moved(part.bytes)
        }
        bytes = part.bytes
      } catch (error) {
        if (handleError(job, onError, true, error) === 'ignore') {
          failure ??= error
          bytes = Math.min(chunkBytes, length - offset)
        }
      }
      offset += bytes
      job.progress.update(bytes)
    }
    if (failure !== undefined) {
      throw failure
    }
  }

  /** How much, from `offset` on, is to be copied, or is not. */
  async #nextPart(
    image: BlockNode,
    offset: number,
    bytes: number,
  ): Promise<{ copy: boolean; bytes: number }> {
    const status = new BlockStatus()
    await settled(image.status(offset, bytes, 'allocation', status))
    const { backing } = image
    if (status.allocated || backing === undefined) {
      return { copy: false, bytes: status.bytes === 0 ? bytes : status.bytes }
    }
    const below = new ChainStatus()
    await chainStatus(backing, nextBelow(this.#baseOverlay), offset, status.bytes, 'allocation', below)
    return { copy: below.allocated, bytes: below.bytes === 0 ? status.bytes : below.bytes }
  }

  /** The filter holds the backing chain, so it goes first; then the chain is cut and the image says so. */
  async prepare(job: BlockJob): Promise<void> {
    await this.#dropFilter(job)
    const image = skipFilters(this.#options.node)
    const base = nextBelow(this.#above)
    const named = skipFilters(base)
    if (image?.backing === undefined) {
      return
    }
    await setBacking(image, base)
    const name = named === undefined ? undefined : (this.#options.backingFile ?? named.filename)
    await changeBackingFile(image, name, named?.driver?.name)
  }

  async #dropFilter(job: BlockJob): Promise<void> {
    const filter = this.#filter
    if (filter !== undefined) {
      this.#filter = undefined
      await job.removeNode(job.nodes.find(({ node }) => node === filter))
      unfreezeChain(this.#baseOverlay, this.#above)
      await dropFilter(filter)
    }
  }

  async clean(job: BlockJob): Promise<void> {
    await this.#dropFilter(job)
    if (this.#wasReadOnly) {
      await job.removeAllNodes()
      await reopenSetReadOnly(this.#options.node, true)
    }
  }
}
