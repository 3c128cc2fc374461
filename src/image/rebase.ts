import { blockError, codeOf, type ErrnoName, prefixed, strerror } from '../errors/index.js'
import {
  Backend,
  type BlockLayer,
  type BlockNode,
  changeBackingFile,
  findBackingImage,
  fullBackingFilename,
  Perm,
  refreshFilename,
  skipFilters,
} from '../graph/index.js'
import { OptionDict } from '../options/index.js'
import type { Wait } from '../sched/index.js'
import type { LongRun } from './long-run.js'
import { cacheModeOf, type ImageSpec, imageLabel, openImage } from './open.js'
import { copyDifferences, type RebaseSide } from './rebase-copy.js'

export interface RebaseImageOptions extends LongRun {
  /** Name of the new backing file as it shall be recorded; absent or empty: none. */
  readonly backing?: string | undefined
  /** Its format; QEMU records no file without one. */
  readonly backingFormat?: string | undefined
  /** Change the name alone (`-u`): for a backing file that was moved, or to repair a wrong name. */
  readonly unsafe?: boolean | undefined
  /** Compress what is copied (`-c`). */
  readonly compress?: boolean | undefined
  /** Cache mode words of the image and of the backing files; default `writeback`. */
  readonly cache?: string | undefined
  readonly sourceCache?: string | undefined
  /** Open the new backing file even if somebody writes to it. */
  readonly forceShare?: boolean | undefined
}

/**
 * Gives an image another backing file, as `qemu-img rebase` does. What the image does not hold itself
 * and what reads differently from the new backing file is copied into it first, so that the guest sees
 * no change; the copies are durable before the header names the new file.
 *
 * @throws BlockError `Could not open '%s': …`, `Could not open new backing file '%s': …`,
 *   `Could not change the backing file to '%s': …` and others with QEMU's text
 */
export async function rebaseImage(
  layer: BlockLayer,
  image: string | ImageSpec,
  options: RebaseImageOptions,
): Promise<void> {
  const { unsafe = false, cache = 'writeback', sourceCache = 'writeback', backingFormat } = options
  cacheModeOf(cache, 'target')
  const mode = cacheModeOf(sourceCache, 'source')
  const backend = await openImage(layer, image, { write: true, noBacking: unsafe, cache })
  const users: Backend[] = []
  try {
    const top = skipFilters(backend.node) ?? backend.node
    if (options.compress === true && top.map?.writeCompressed === undefined) {
      throw blockError('ENOTSUP', 'Compression not supported for this file format')
    }
    if (backingFormat !== undefined && layer.findFormat(backingFormat) === undefined) {
      throw blockError('EINVAL', `Invalid format name: '${backingFormat}'`)
    }
    if (!unsafe) {
      const old = await useOldBacking(top, users)
      const fresh = await openNewBacking(backend.node, top, options, mode, users)
      checkChange(top, options)
      const settings = { ...options, label: imageLabel(image) }
      await copyDifferences(backend, top, old, fresh, settings)
    }
    await changeName(backend, top, options)
  } finally {
    for (const user of users) {
      await user.close()
    }
    await backend.close()
  }
}

async function useOldBacking(top: BlockNode, users: Backend[]): Promise<RebaseSide | undefined> {
  const node = top.backing
  if (node === undefined) {
    return undefined
  }
  const user = new Backend(top.layer, { perm: Perm.consistentRead })
  users.push(user)
  try {
    await user.insert(node)
  } catch (error) {
    throw prefixed(error, `Could not reuse old backing file '${top.backingFile}': `)
  }
  return { user, inChain: true }
}

/** Opens the new backing file, or uses it where it is open already because it is part of the chain. */
async function openNewBacking(
  node: BlockNode,
  top: BlockNode,
  options: RebaseImageOptions,
  mode: { readonly direct: boolean; readonly noFlush: boolean },
  users: Backend[],
): Promise<RebaseSide | undefined> {
  const { backing = '', backingFormat, forceShare } = options
  const { layer } = node
  if (backing === '') {
    return undefined
  }
  refreshFilename(node)
  const overlay = node.exactFilename === '' ? node.filename : node.exactFilename
  let name: string
  try {
    name = fullBackingFilename(overlay, backing, layer.host.pathStyle)
  } catch (error) {
    throw prefixed(error, 'Could not resolve backing filename: ')
  }
  const inChain = findBackingImage(top, name)
  try {
    if (inChain !== undefined) {
      const user = new Backend(layer, { perm: Perm.consistentRead })
      users.push(user)
      await user.insert(inChain)
      return { user, inChain: true }
    }
  } catch (error) {
    throw prefixed(error, `Could not reuse backing file '${backing}': `)
  }
  const opening = new OptionDict([
    ['cache.direct', mode.direct],
    ['cache.no-flush', mode.noFlush],
  ])
  if (backingFormat !== undefined) {
    opening.set('driver', backingFormat)
  }
  if (forceShare === true) {
    opening.set('force-share', true)
  }
  try {
    const user = await Backend.open(layer, name, opening)
    users.push(user)
    return { user, inChain: false }
  } catch (error) {
    throw prefixed(error, `Could not open new backing file '${backing}': `)
  }
}

function changeFailure(backing: string | undefined, why: string, code: ErrnoName, cause?: unknown) {
  return blockError(code, `Could not change the backing file to '${backing ?? '(null)'}': ${why}`, { cause })
}

/** Throws what the change of the name would throw in any case, before anything is copied. */
function checkChange(top: BlockNode, { backing, backingFormat }: RebaseImageOptions): void {
  if (top.state?.changeBacking === undefined) {
    throw changeFailure(backing, strerror('ENOTSUP'), 'ENOTSUP')
  }
  if (backing !== undefined && backing !== '' && backingFormat === undefined) {
    throw changeFailure(backing, 'backing format must be specified', 'EINVAL')
  }
}

/** Records the new name when everything written so far is durable. */
async function changeName(backend: Backend, top: BlockNode, options: RebaseImageOptions): Promise<void> {
  const { backing, backingFormat } = options
  checkChange(top, options)
  try {
    await settled(backend.flush())
    if (backing !== undefined && backing !== '') {
      await changeBackingFile(top, backing, backingFormat, true)
    } else {
      await changeBackingFile(top, undefined, undefined)
    }
    await settled(backend.flush())
  } catch (error) {
    const code = codeOf(error)
    const why = code === 'ENOSPC' ? 'No space left in the file header' : strerror(code)
    throw changeFailure(backing, why, code, error)
  }
}

async function settled(wait: Wait): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}
