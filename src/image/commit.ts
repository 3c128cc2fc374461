import { blockError, codeOf, errnoError, isBlockError, prefixed, strerror } from '../errors/index.js'
import {
  Backend,
  type BlockLayer,
  type BlockNode,
  backingChainNext,
  chainContains,
  checkNotBlocked,
  drain,
  findBackingImage,
  Perm,
  refreshFilename,
  skipFilters,
  truncateNode,
  whileWritable,
} from '../graph/index.js'
import { ChainStatus, chainStatus, ReqFlags } from '../io/index.js'
import { TimeSlice, type Wait } from '../sched/index.js'
import { type LongRun, throwIfAborted } from './long-run.js'
import { type ImageSpec, imageLabel, openImage } from './open.js'
import { RateLimit } from './rate-limit.js'

export interface CommitNodeOptions extends LongRun {
  /** Image below to write into; default: the next one. */
  readonly base?: BlockNode | undefined
  /** Leave the image as it is instead of emptying it (`-d`). Images above `base` but the top one are never changed. */
  readonly keep?: boolean | undefined
  /** Bytes per second. */
  readonly rateLimit?: number | undefined
}

/** Bytes moved at a time. */
const chunkBytes = 1024 * 1024

/**
 * Writes what `top` and the images between it and the base hold into the base, then empties `top`
 * (seed rows 87-91). The base grows if it is shorter, and is writable only meanwhile. What is written
 * to `top` from outside waits until this is over.
 *
 * When it returns the base is durable; it is made durable before `top` is emptied, so that a crash at
 * any moment leaves contents in one of the two.
 *
 * @throws BlockError ENOMEDIUM, ENOTSUP without a backing file, EBUSY if blocked, the error of making
 *   the base writable, or of reading and writing
 */
export async function commitNode(top: BlockNode, options: CommitNodeOptions = {}): Promise<void> {
  if (top.driver === undefined) {
    throw blockError('ENOMEDIUM', 'No medium found')
  }
  const active = skipFilters(top)
  const base = options.base ?? backingChainNext(top)
  if (active === undefined || base === undefined) {
    throw blockError('ENOTSUP', 'Operation not supported')
  }
  if (base === active || !chainContains(active, base)) {
    throw blockError('EINVAL', `'${base.name}' is not below '${active.name}'`)
  }
  checkNotBlocked(active, 'commit-source')
  checkNotBlocked(base, 'commit-target')
  const section = await drain([top])
  // Dropped images must not be closed by somebody else while they are read.
  const held = [top, base].map((node) => node.layer.ref(node))
  try {
    await whileWritable(base, async () => {
      await copyDown(active, base, options)
      if (options.keep !== true) {
        await makeEmpty(active)
      }
    })
  } finally {
    section.end()
    for (const node of held) {
      await node.layer.unref(node)
    }
  }
}

/** Copies everything allocated above `base` into it and makes it durable. */
async function copyDown(active: BlockNode, base: BlockNode, options: CommitNodeOptions): Promise<void> {
  const { progress, rateLimit = 0, signal } = options
  const target = new Backend(base.layer, { perm: Perm.consistentRead | Perm.write | Perm.resize })
  try {
    await target.insert(base)
  } catch (error) {
    await target.close()
    throw error
  }
  try {
    const { length } = active
    if (base.length < length) {
      await truncateNode(base, length, { exact: false, preallocation: 'off', zero: false })
    }
    const limit = rateLimit > 0 ? new RateLimit(rateLimit) : undefined
    const slice = new TimeSlice()
    const status = new ChainStatus()
    const buffer = new Uint8Array(chunkBytes)
    for (let offset = 0; offset < length; offset += status.bytes) {
      throwIfAborted(signal)
      progress?.(offset, length)
      await chainStatus(active, base, offset, length - offset, 'zero', status)
      if (!status.allocated) {
        continue
      }
      if (status.zero) {
        await settled(target.writeZeroes(offset, status.bytes, ReqFlags.mayUnmap))
      } else {
        // The whole extent: asking for each piece anew would look at its tables again.
        for (let done = 0; done < status.bytes; ) {
          throwIfAborted(signal)
          const bytes = Math.min(status.bytes - done, chunkBytes)
          await limit?.take(bytes, signal)
          await settled(active.read(offset + done, bytes, buffer, 0, 0))
          await settled(target.write(offset + done, bytes, buffer))
          done += bytes
          progress?.(offset + done, length)
          const pause = slice.breathe()
          if (pause !== undefined) {
            await pause
          }
        }
        continue
      }
      const pause = slice.breathe()
      if (pause !== undefined) {
        await pause
      }
    }
    throwIfAborted(signal)
    await settled(target.flush())
    progress?.(length, length)
  } catch (error) {
    if (isBlockError(error) && error.code !== 'ECANCELED') {
      throw blockError(error.code, `Block job failed: ${strerror(error.code)}`, { cause: error })
    }
    throw error
  } finally {
    await target.close()
  }
}

/** Empties the image if its format can; the contents are safe in the base. */
async function makeEmpty(node: BlockNode): Promise<void> {
  if (node.state?.makeEmpty === undefined) {
    return
  }
  const user = new Backend(node.layer, { perm: Perm.write | Perm.resize })
  try {
    await user.insert(node)
    await settled(node.state.makeEmpty())
    node.flushState.writeGeneration++
    await settled(node.flush())
  } catch (error) {
    refreshFilename(node)
    throw errnoError(codeOf(error), `Failed to empty ${node.filename}`, { cause: error })
  } finally {
    await user.close()
  }
}

async function settled(wait: Wait): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}

/**
 * Commits every image that a user of the layer has open and that has a backing file, in order; stops
 * at the first error (seed row 92).
 */
export async function commitAll(layer: BlockLayer): Promise<void> {
  for (const backend of [...layer.backends]) {
    const node = backend.root?.node
    if (node?.driver !== undefined && backingChainNext(node) !== undefined) {
      await commitNode(node)
    }
  }
}

export interface CommitImageOptions extends LongRun {
  /** Name of an image in the chain to write into; default: the next one. The image is not emptied then. */
  readonly base?: string | undefined
  /** Leave the image as it is instead of emptying it. */
  readonly keep?: boolean | undefined
  /** Bytes per second. */
  readonly rateLimit?: number | undefined
  /** Cache mode word of the image; default `writeback`. */
  readonly cache?: string | undefined
}

/** What a commit has done. */
export interface CommitResult {
  /** The image that the data went into, by the name it was opened with. */
  readonly base: string
  /** Whether the image was emptied. */
  readonly emptied: boolean
}

/**
 * Writes the contents of an image into the one below it and empties it, as `qemu-img commit` does.
 *
 * With a `base` further down everything above it is written there; the images between are not changed
 * and are of no use any more, since what lies below them has changed.
 *
 * @throws BlockError `Could not open '%s': …`, `Image does not have a backing file`,
 *   `Did not find '%s' in the backing chain of '%s'`, `Block job failed: …`, `Failed to empty %s: …`
 */
export async function commitImage(
  layer: BlockLayer,
  image: string | ImageSpec,
  options: CommitImageOptions = {},
): Promise<CommitResult> {
  const { base: baseName, cache, ...rest } = options
  const backend = await openImage(layer, image, { write: true, unmap: true, cache })
  let failure: { error: unknown } | undefined
  try {
    const { node } = backend
    const base = baseName === undefined ? backingChainNext(node) : findBackingImage(node, baseName)
    if (base === undefined) {
      throw blockError(
        'ENOENT',
        baseName === undefined
          ? 'Image does not have a backing file'
          : `Did not find '${baseName}' in the backing chain of '${imageLabel(image)}'`,
      )
    }
    const keep = options.keep === true || baseName !== undefined
    await commitNode(node, { ...rest, base, keep })
    const emptied = !keep && skipFilters(node)?.state?.makeEmpty !== undefined
    return { base: base.filename, emptied }
  } catch (error) {
    failure = { error }
    throw error
  } finally {
    await close(backend, failure)
  }
}

/** Closes the image. A failure of that is reported unless there is an earlier one. */
async function close(backend: Backend, failure: { error: unknown } | undefined): Promise<void> {
  try {
    await backend.close()
  } catch (error) {
    if (failure === undefined) {
      throw prefixed(error, 'Could not write the image back: ')
    }
  }
}
