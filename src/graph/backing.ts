import { blockError, prefixed } from '../errors/index.js'
import type { OptionDict } from '../options/index.js'
import { joinAioContexts } from './aio-change.js'
import { localPath } from './create.js'
import { drain } from './drain.js'
import { swapBacking } from './edge-change.js'
import { refreshFilename } from './filenames.js'
import { Role } from './flags.js'
import { refreshLimits } from './geometry.js'
import type { BlockNode } from './node.js'
import { fullBackingFilename, pathCombine, pathHasProtocol, pathIsAbsolute } from './paths.js'
import { settlePermissions } from './permissions.js'

/** Longest chain of backing files that is opened: a cycle that no name betrays ends here. */
const maxChainLength = 200

/**
 * Folder of a node's file, with its final separator: the base of relative names inside the image.
 * Throws EINVAL if the node has none (seed row 11, today's rule).
 */
export function directoryOf(node: BlockNode): string {
  const primary = node.primary
  if (primary !== undefined && node.driver?.composite !== true) {
    return directoryOf(primary)
  }
  refreshFilename(node)
  if (node.exactFilename !== '') {
    return pathCombine(node.exactFilename, '', node.host.pathStyle)
  }
  throw blockError('EINVAL', `Cannot generate a base directory for ${node.driver?.name ?? 'closed'} nodes`)
}

/** Full name of a file that `node`'s image names; undefined for an empty name. */
export function absoluteFilename(node: BlockNode, filename: string): string | undefined {
  const style = node.host.pathStyle
  if (filename === '') {
    return undefined
  }
  if (pathHasProtocol(filename, style) || pathIsAbsolute(filename, style)) {
    return filename
  }
  return directoryOf(node) + filename
}

/** Full name of the backing file as `node`'s image records it; undefined if it records none. */
export function backingFilenameOf(node: BlockNode): string | undefined {
  return absoluteFilename(node, node.backingFile)
}

function depthBelowTop(node: BlockNode): number {
  let depth = 0
  for (let at = node.inheritsFrom; at !== undefined; at = at.inheritsFrom) {
    depth++
  }
  return depth
}

/** Refuses a backing file that is one of the images above it. */
function checkLoop(node: BlockNode, filename: string): void {
  const layer = node.layer
  const path = localPath(layer, filename)
  const identity = path === undefined ? undefined : layer.host.files.stat(path)?.identity
  for (let at: BlockNode | undefined = node; at !== undefined; at = at.inheritsFrom) {
    const above = at.file
    if (identity !== undefined && above !== undefined && above.exactFilename !== '') {
      const name = localPath(layer, above.exactFilename)
      if (name !== undefined && layer.host.files.stat(name)?.identity === identity) {
        throw blockError('ELOOP', `Backing file '${filename}' creates an infinite loop.`)
      }
    }
  }
  if (depthBelowTop(node) >= maxChainLength) {
    throw blockError('ELOOP', `Backing chain of more than ${maxChainLength} images at '${filename}'`)
  }
}

/**
 * Opens the backing file that the image or the options name, if any (seed row 60). `options` are
 * the node's: `backing` (a node name) and `backing.*` are taken out.
 */
export async function openBackingFile(node: BlockNode, options: OptionDict): Promise<void> {
  if (node.backing !== undefined) {
    return
  }
  const sub = options.takeSubtree('backing.')
  const reference = options.getString('backing')
  let filename: string | undefined
  let implicit = false
  if (reference === undefined && !sub.has('file.filename')) {
    if (node.backingFile === '' && sub.size === 0) {
      return
    }
    implicit = sub.size === 0 && node.autoBackingFile === node.backingFile
    filename = backingFilenameOf(node)
  }
  if (!node.supportsBacking) {
    throw blockError('EINVAL', "Driver doesn't support backing files")
  }
  if (reference === undefined && node.backingFormat !== '') {
    sub.setDefault('driver', node.backingFormat)
  }
  let backing: BlockNode
  try {
    if (filename !== undefined) {
      checkLoop(node, filename)
      await node.layer.implicitFiles({ parent: node, key: 'backing', filename })
    }
    backing = await node.layer.openRequest({
      filename,
      options: sub,
      flags: {},
      parent: node,
      role: Role.cow,
      ...(reference === undefined ? {} : { reference }),
    })
  } catch (error) {
    node.flags.noBacking = true
    throw prefixed(error, 'Could not open backing file: ')
  }
  try {
    try {
      node.state?.checkBacking?.(backing)
    } catch (error) {
      throw prefixed(error, 'Could not open backing file: ')
    }
    if (implicit) {
      refreshFilename(backing)
      node.autoBackingFile = backing.filename
    }
    await setBacking(node, backing)
  } finally {
    await node.layer.unref(backing)
  }
  options.delete('backing')
}

/**
 * Makes `backing` the backing node of `node`, or removes it. Takes its own reference; the old one's
 * is given back (seed row 59).
 */
export async function setBacking(node: BlockNode, backing: BlockNode | undefined): Promise<void> {
  if (node.child('backing')?.node === backing) {
    return
  }
  if (backing !== undefined) {
    await joinAioContexts(node, backing)
  }
  const section = await drain([node])
  try {
    await setBackingDrained(node, backing)
  } finally {
    section.end()
  }
}

async function setBackingDrained(node: BlockNode, backing: BlockNode | undefined): Promise<void> {
  const change = await node.layer.graphLock.run(async () => {
    const made = swapBacking(node, backing)
    try {
      await settlePermissions(made.affected)
    } catch (error) {
      made.undo()
      throw error
    }
    return made
  })
  refreshLimits(node)
  await change.finish()
}

/**
 * Records another backing file in the image's header (seed row 62). With `requireFormat` a file
 * without a format is refused.
 */
export async function changeBackingFile(
  node: BlockNode,
  filename: string | undefined,
  format: string | undefined,
  requireFormat = false,
): Promise<void> {
  if (node.driver === undefined) {
    throw blockError('ENOMEDIUM', 'No medium found')
  }
  if (
    (format !== undefined && filename === undefined) ||
    (requireFormat && filename !== undefined && format === undefined)
  ) {
    throw blockError('EINVAL', 'Invalid argument')
  }
  if (node.state?.changeBacking === undefined) {
    throw blockError('ENOTSUP', 'Operation not supported')
  }
  const wait = node.state.changeBacking(filename, format)
  if (wait !== undefined) {
    await wait
  }
  node.backingFile = filename ?? ''
  node.backingFormat = format ?? ''
  node.autoBackingFile = filename ?? ''
}

/** The first node at or below `node` that is not a filter. */
export function skipFilters(node: BlockNode | undefined): BlockNode | undefined {
  let at = node
  // snapshot-access has other contents than the node below: nothing shows through it.
  while (at?.isFilter && at.filteredNode !== undefined) {
    at = at.filteredNode
  }
  return at
}

/** The next image down the chain, filters skipped. */
export function backingChainNext(node: BlockNode): BlockNode | undefined {
  return skipFilters(skipFilters(node)?.backing)
}

/** The image in `active`'s chain whose backing image is `node` (undefined: the bottom one). Seed row 63. */
export function findOverlay(
  active: BlockNode | undefined,
  node: BlockNode | undefined,
): BlockNode | undefined {
  const wanted = skipFilters(node)
  let at = skipFilters(active)
  while (at !== undefined) {
    const next = backingChainNext(at)
    if (next === wanted) {
      return at
    }
    at = next
  }
  return undefined
}

/** The image at the end of the chain. */
export function findBase(node: BlockNode | undefined): BlockNode | undefined {
  return findOverlay(node, undefined)
}

/** Whether `base` is `top` or below it in its chain (seed row 65). */
export function chainContains(top: BlockNode | undefined, base: BlockNode | undefined): boolean {
  let at = top
  while (at !== undefined && at !== base) {
    at = at.backing ?? at.filteredNode
  }
  return at !== undefined
}

/** How many backing files lie below `node`. */
export function backingDepth(node: BlockNode): number {
  if (node.driver === undefined || node.backing === undefined) {
    return 0
  }
  return 1 + backingDepth(node.backing)
}

/** Finds the image that `filename` names in the chain below `node` (seed row 67). */
export function findBackingImage(
  node: BlockNode | undefined,
  filename: string | undefined,
): BlockNode | undefined {
  if (node?.driver === undefined || filename === undefined) {
    return undefined
  }
  const style = node.host.pathStyle
  const files = node.host.files
  const searchedProtocol = pathHasProtocol(filename, style)
  for (let at = skipFilters(node); at !== undefined; at = backingChainNext(at)) {
    const below = backingChainNext(at)
    if (below === undefined) {
      return undefined
    }
    const overridden = at.autoBackingFile !== (at.backing?.filename ?? '')
    if (overridden && below.filename === filename) {
      return below
    }
    if (searchedProtocol || pathHasProtocol(at.backingFile, style)) {
      if (filename === at.backingFile || filename === safeBackingFilename(at)) {
        return below
      }
      continue
    }
    // Both names are relative to the image that mentions them.
    const searched = files.realPath(fullNameFrom(at, filename))
    const recorded = files.realPath(fullNameFrom(at, at.backingFile))
    if (searched !== undefined && searched === recorded) {
      return below
    }
  }
  return undefined
}

function safeBackingFilename(node: BlockNode): string | undefined {
  try {
    return backingFilenameOf(node)
  } catch (error) {
    if (error instanceof Error) {
      return undefined
    }
    throw error
  }
}

function fullNameFrom(node: BlockNode, filename: string): string {
  try {
    return fullBackingFilename(node.exactFilename === '' ? node.filename : node.exactFilename, filename)
  } catch (error) {
    if (error instanceof Error) {
      return filename
    }
    throw error
  }
}
