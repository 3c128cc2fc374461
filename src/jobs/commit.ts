import { blockError } from '../errors/index.js'
import {
  type BlockDriver,
  type BlockNode,
  checkNotBlocked,
  dropIntermediate,
  findOverlay,
  freezeChain,
  Perm,
  reopenSetReadOnly,
  replaceNode,
  truncateNode,
  unfreezeChain,
} from '../graph/index.js'
import { ChainStatus, chainStatus } from '../io/index.js'
import type { BlockJob, BlockJobDriver, JobOnError } from './block-job.js'
import { type CommonJobOptions, handleError, makeBlockJob, settled } from './copying.js'
import { appendJobFilter, JobFilter, noDemands } from './filter-node.js'
import { nextBelow } from './stream.js'

export interface CommitOptions extends CommonJobOptions {
  /** The image on top of the chain. */
  readonly node: BlockNode
  /** The highest image whose data goes into the base; below `node`. */
  readonly top: BlockNode
  /** The image that takes the data in. */
  readonly base: BlockNode
  /** Name of the base to record in the image above `top`; default: its own. */
  readonly backingFile?: string | undefined
  /** Default `report`. */
  readonly onError?: JobOnError | undefined
}

/** Bytes copied at a time. */
const chunkBytes = 512 * 1024

/** What was written to `top` is going down into the base: it stands here so that nobody relies on the images between. */
const commitTop: BlockDriver = {
  name: 'commit_top',
  kind: 'filter',
  options: {},
  load: () => ({ open: ({ node }) => new CommitTop(node) }),
}

class CommitTop extends JobFilter {
  childPermissions(): { perm: number; shared: number } {
    return noDemands
  }
}

/** @throws BlockError EBUSY if another job uses what a commit needs */
export function checkCommitAllowed(node: BlockNode, top: BlockNode, base: BlockNode): void {
  checkNotBlocked(node, 'commit-source')
  for (let at: BlockNode | undefined = top; at !== undefined; at = nextBelow(at)) {
    checkNotBlocked(at, 'commit-target')
    if (at === base) {
      break
    }
  }
}

/**
 * A job that copies what the images from `top` down hold into `base`, then takes them out of the chain
 * (`block-commit` of images below the active one). Created, not started.
 *
 * @throws BlockError if the chain is in use by another job, the base cannot be written, or permissions conflict
 */
export async function createCommit(options: CommitOptions): Promise<BlockJob> {
  const { node, top, base } = options
  if (top === base) {
    throw blockError('EINVAL', 'Invalid files for merge: top and base are the same')
  }
  const baseOverlay = findOverlay(top, base)
  if (baseOverlay === undefined) {
    throw blockError('EINVAL', `'${base.name}' is not in the backing chain of '${top.name}'`)
  }
  checkCommitAllowed(node, top, base)
  const wasReadOnly = base.readOnly
  if (wasReadOnly) {
    await reopenSetReadOnly(base, false)
  }
  let filter: BlockNode | undefined
  let frozen = false
  try {
    filter = await appendJobFilter(node.layer, top, commitTop, options.filterNodeName, false)
    freezeChain(filter, base)
    frozen = true
    const driver = new Commit(options, filter, baseOverlay, wasReadOnly)
    return await makeBlockJob(node, driver, options, async (job) => {
      await job.addNode('main node', node, 0, Perm.all)
      let shared: number = Perm.writeUnchanged | Perm.write
      for (let at: BlockNode | undefined = top; at !== undefined && at !== base; at = nextBelow(at)) {
        if (at === baseOverlay.backing) {
          // From here on there are only filters on the base.
          shared |= Perm.consistentRead
        }
        await job.addNode('intermediate node', at, 0, shared)
      }
      await driver.useBase(job)
    })
  } catch (error) {
    if (filter !== undefined) {
      if (frozen) {
        unfreezeChain(filter, base)
      }
      await replaceNode(filter, top)
      await node.layer.unref(filter)
    }
    if (wasReadOnly) {
      await reopenSetReadOnly(base, true)
    }
    throw error
  }
}

class Commit implements BlockJobDriver {
  readonly type = 'commit'
  readonly #options: CommitOptions
  #filter: BlockNode | undefined
  readonly #baseOverlay: BlockNode
  readonly #wasReadOnly: boolean

  constructor(options: CommitOptions, filter: BlockNode, baseOverlay: BlockNode, wasReadOnly: boolean) {
    this.#options = options
    this.#filter = filter
    this.#baseOverlay = baseOverlay
    this.#wasReadOnly = wasReadOnly
  }

  async useBase(job: BlockJob): Promise<void> {
    const perm = Perm.consistentRead | Perm.write | Perm.resize
    const { base } = this.#options
    await job.addNode('base', base, 0, Perm.all)
    await job.addDevice(base, perm, Perm.consistentRead | Perm.writeUnchanged)
  }

  async run(job: BlockJob): Promise<void> {
    const { base, top, onError = 'report' } = this.#options
    const { length } = top
    job.progress.setRemaining(length)
    if (base.length < length) {
      await job.changingGraph(() =>
        truncateNode(base, length, { exact: false, preallocation: 'off', zero: false }),
      )
    }
    const buffer = new Uint8Array(Math.min(chunkBytes, length))
    const status = new ChainStatus()
    for (let offset = 0; offset < length; ) {
      await job.breathe()
      if (job.isCancelled) {
        return
      }
      const wanted = Math.min(chunkBytes, length - offset)
      let reading = true
      let bytes = 0
      try {
        await chainStatus(top, nextBelow(this.#baseOverlay), offset, wanted, 'allocation', status)
        const { allocated } = status
        const part = status.bytes === 0 ? wanted : status.bytes
        if (allocated) {
          await settled(top.read(offset, part, buffer, 0, 0))
          reading = false
          await settled(base.write(offset, part, buffer, 0, 0))
          job.moved(part)
        }
        bytes = part
      } catch (error) {
        // Ignored errors are tried again, as nothing may be left out.
        handleError(job, onError, reading, error)
      }
      offset += bytes
      job.progress.update(bytes)
    }
    // The images above go away: what they held must not get lost with the power.
    await settled(base.flush())
  }

  async prepare(job: BlockJob): Promise<void> {
    const { node, base, backingFile } = this.#options
    const filter = this.#filter
    if (filter === undefined) {
      return
    }
    unfreezeChain(filter, base)
    await job.removeNode(job.devices[0])
    try {
      await dropIntermediate(node, filter, base, backingFile)
    } catch (error) {
      freezeChain(filter, base)
      throw error
    }
    this.#filter = undefined
    await filter.layer.unref(filter)
  }

  async abort(job: BlockJob): Promise<void> {
    const filter = this.#filter
    if (filter !== undefined) {
      this.#filter = undefined
      unfreezeChain(filter, this.#options.base)
      await job.removeAllNodes()
      await replaceNode(filter, this.#options.top)
      await filter.layer.unref(filter)
    }
  }

  async clean(job: BlockJob): Promise<void> {
    if (this.#wasReadOnly) {
      await job.removeAllNodes()
      await reopenSetReadOnly(this.#options.base, true)
    }
  }
}
