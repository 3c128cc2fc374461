import { blockError } from '../errors/index.js'
import {
  allocatedSize,
  type Backend,
  type BlockLayer,
  type BlockNode,
  checkNode,
  localPath,
} from '../graph/index.js'
import { convertImage } from './convert.js'
import { type LongRun, throwIfAborted } from './long-run.js'
import { type ImageSpec, imageLabel, openImage } from './open.js'

export interface CompactImageOptions extends LongRun {
  readonly image: ImageSpec | string
  /** Leaves the image alone and writes the compact one to this new file. */
  readonly output?: string | undefined
  /** Compresses; an image that has compressed clusters is compressed anew in any case. */
  readonly compress?: boolean | undefined
}

/** Bytes on the host before and after; the same if there was nothing to gain. */
export interface CompactResult {
  readonly before: number
  readonly after: number
  /** Whether the compact image is in use, under the old name or the new one. */
  readonly compacted: boolean
}

/**
 * Rewrites a qcow2 image so that it occupies as little of the host as its contents need: clusters of
 * zeroes, of freed space and of metadata that is no longer needed go. The backing file stays what it
 * is, and so do the format's properties and the persistent bitmaps.
 *
 * The new image is written beside the old one, made durable and only then given its name, so that a
 * crash leaves the one or the other. Nobody may write to the image meanwhile; who reads the old one
 * goes on doing so. An image that would not become smaller stays as it is.
 *
 * @throws ENOTSUP for other formats, for images that are not plain files, with internal snapshots, with
 *   encryption or with an external data file; EIO for corrupt ones
 */
export async function compactImage(layer: BlockLayer, options: CompactImageOptions): Promise<CompactResult> {
  throwIfAborted(options.signal)
  const label = imageLabel(typeof options.image === 'string' ? { filename: options.image } : options.image)
  // Held until the end: it keeps writers away.
  const guard = await openImage(layer, options.image, { noShare: true })
  try {
    return await compactOpen(layer, guard, label, options)
  } finally {
    await guard.close()
  }
}

function refused(message: string) {
  return blockError('ENOTSUP', message)
}

async function compactOpen(
  layer: BlockLayer,
  guard: Backend,
  label: string,
  options: CompactImageOptions,
): Promise<CompactResult> {
  const { node } = guard
  const path = placeOf(layer, node)
  const { files } = layer.host
  const data = await properties(node, label)
  const check = await checkNode(node, { leaks: false, errors: false }, options.signal)
  if (check.corruptions !== 0 || check.checkErrors !== 0) {
    throw blockError('EIO', `Image '${label}' is corrupt: check and repair it first`)
  }
  const file = node.child('file')?.node ?? node
  const before = await allocatedSize(file)
  refuseExisting(layer, options.output)
  const target = options.output ?? path
  const work = `${target}.${tagOf(layer)}.part`
  const compress = options.compress === true || check.compressedClusters !== 0
  try {
    // Nobody may read it who could not read the image.
    const mode = options.output === undefined ? { mode: 0o600 } : {}
    await (await files.open(work, { create: true, exclusive: true, write: true, ...mode })).close()
    if (options.output === undefined) {
      files.copyPermissions?.(path, work)
    }
    await convertImage(layer, {
      sources: [{ filename: path, format: 'qcow2' }],
      target: work,
      format: 'qcow2',
      options: data,
      backing: backingOf(node),
      bitmaps: [...node.dirtyBitmaps].length !== 0,
      compress,
      cache: 'writeback',
      signal: options.signal,
      progress: options.progress,
      quiet: true,
    })
    const after = await finish(layer, work)
    // Less than a cluster is the file system's own book-keeping.
    if (options.output === undefined && before - after < (node.state?.clusterSize ?? 1)) {
      files.unlink(work)
      return { before, after: before, compacted: false }
    }
    refuseExisting(layer, options.output)
    files.rename(work, target)
    // What is written to it from now on must not be lost with its name.
    files.syncFolder?.(folderOf(layer, target))
    return { before, after, compacted: true }
  } catch (error) {
    if (files.stat(work)?.kind === 'regular') {
      files.unlink(work)
    }
    throw error
  }
}

function refuseExisting(layer: BlockLayer, output: string | undefined): void {
  if (output !== undefined && layer.host.files.stat(output) !== undefined) {
    throw blockError('EEXIST', `Could not create '${output}': File exists`)
  }
}

/** The folder that a file stands in. */
function folderOf({ host }: BlockLayer, path: string): string {
  const absolute = host.files.absolute(path)
  const slash = absolute.lastIndexOf('/')
  const end = host.pathStyle === 'win32' ? Math.max(slash, absolute.lastIndexOf('\\')) : slash
  return end <= 0 ? absolute.slice(0, 1) : absolute.slice(0, end)
}

/** Where the image is, links resolved: its name is what the new one takes over. */
function placeOf(layer: BlockLayer, node: BlockNode): string {
  const format = node.driver?.name ?? ''
  if (format !== 'qcow2') {
    throw refused(`Images of format '${format}' cannot be made compact`)
  }
  const file = node.child('file')?.node
  const local = file?.driver?.name === 'file' ? localPath(layer, file.filename) : undefined
  const path = local === undefined ? undefined : layer.host.files.realPath(local)
  if (path === undefined || layer.host.files.stat(path)?.kind !== 'regular') {
    throw refused('Only an image in a plain file can be made compact')
  }
  return path
}

/** Create options for an image like this one. */
async function properties(node: BlockNode, label: string): Promise<Record<string, string>> {
  const snapshots = node.state?.snapshots?.().length ?? 0
  if (snapshots !== 0) {
    throw refused(
      `Image '${label}' has ${snapshots} internal snapshot${snapshots === 1 ? '' : 's'}, which would be lost: ` +
        'delete them first, or convert each with -l',
    )
  }
  const data = (await node.state?.specificInfo?.())?.data ?? {}
  if (data.encrypt !== undefined) {
    throw refused(`Image '${label}' is encrypted: unused clusters do not look like zeroes`)
  }
  if (data['data-file'] !== undefined) {
    throw refused(`The guest data of image '${label}' is in another file: nothing would become smaller here`)
  }
  const flag = (name: string) => (data[name] === true ? 'on' : 'off')
  const compat = String(data.compat)
  return {
    compat,
    cluster_size: String(node.state?.clusterSize),
    refcount_bits: String(data['refcount-bits']),
    ...(compat === '0.10'
      ? {}
      : {
          lazy_refcounts: flag('lazy-refcounts'),
          extended_l2: flag('extended-l2'),
          compression_type: String(data['compression-type']),
        }),
  }
}

function backingOf(node: BlockNode): { file: string; format?: string } | undefined {
  const file = node.state?.backingFile
  if (file === undefined || file === '') {
    return undefined
  }
  const format = node.state?.backingFormat ?? node.backing?.driver?.name
  return format === undefined ? { file } : { file, format }
}

function tagOf(layer: BlockLayer): string {
  return [...layer.host.randomBytes(6)].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** Makes the new file durable. Returns the bytes it occupies. */
async function finish(layer: BlockLayer, path: string): Promise<number> {
  const opened = await layer.host.files.open(path, { write: true })
  try {
    await opened.sync()
  } finally {
    await opened.close()
  }
  const node = await layer.open(path, {}, { protocol: true })
  try {
    return await allocatedSize(node)
  } finally {
    await layer.unref(node)
  }
}
