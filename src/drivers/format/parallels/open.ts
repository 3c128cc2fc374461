import { readU32LE, readU64LE } from '../../../bytes/index.js'
import { blockError, ioError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import type { OpenContext } from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'
import { takeOptions } from '../../../options/index.js'
import { loadExtension } from './extension.js'
import { notClosed, ParallelsImage } from './image.js'
import { ImageTable } from './image-table.js'
import { at, headerBytes, type ImageKind, kindOf, maxEntries, sectorBytes, tableEnd } from './layout.js'
import { parallelsRuntimeOptions } from './options.js'
import { ClusterSpace, type Preallocation } from './space.js'

const defaultPreallocation = 128 << 20
/** QEMU's limits, which its texts speak of: sectors of a cluster, entries of the table. */
const maxTracks = Math.floor(0x7fffffff / 513)
const qemuMaxEntries = 0x1fffffff

/**
 * Opens an image: header and block table. One that was not closed is opened for reading only, or to be checked.
 *
 * @throws BlockError with QEMU's text
 */
export async function open(context: OpenContext): Promise<ParallelsImage> {
  const { file, node, flags, options, host } = context
  const preallocation = preallocationOf(options)
  const head = new Uint8Array(headerBytes)
  await readPadded(file.node, 0, head)
  const kind = kindOf(head)
  if (kind === undefined) {
    throw blockError('EINVAL', 'Image not in Parallels format')
  }
  const length = checkHeader(head, kind)
  const bytes = new Uint8Array(tableEnd(readU32LE(head, at.entries)))
  await readPadded(file.node, 0, bytes)
  const table = new ImageTable(file, kind, bytes)
  const write = !node.readOnly && flags.write
  if (table.inUse && write && !flags.check && !flags.inactive) {
    throw notClosed()
  }
  const space = new ClusterSpace(file, table, preallocation)
  let extensionEnd = 0
  if (table.extOffset !== 0) {
    if (write) {
      host.warn('warning: Format Extension ignored in RW mode')
    } else {
      extensionEnd = await loadExtension(context, table, length)
    }
  }
  return new ParallelsImage({ node, length, table, space, file, unclean: table.inUse, extensionEnd })
}

function preallocationOf(options: OpenContext['options']): Preallocation {
  const taken = takeOptions(options, parallelsRuntimeOptions)
  const mode = taken['prealloc-mode'] ?? 'falloc'
  if (mode !== 'falloc' && mode !== 'truncate') {
    throw blockError('EINVAL', `invalid parameter value: ${mode}`)
  }
  return { size: taken['prealloc-size'] ?? defaultPreallocation, mode }
}

/** Checks the header in QEMU's order; the result is the length of the disk, bytes. */
function checkHeader(head: Uint8Array, kind: ImageKind): number {
  const tracks = readU32LE(head, at.tracks)
  if (tracks === 0) {
    throw blockError('EINVAL', 'Invalid image: Zero sectors per track')
  }
  if (tracks > maxTracks) {
    throw blockError('EFBIG', 'Invalid image: Too big cluster')
  }
  if (readU32LE(head, at.entries) > Math.min(maxEntries, qemuMaxEntries)) {
    throw blockError('EFBIG', 'Catalog too large')
  }
  const sectors = kind === 'sectors' ? readU32LE(head, at.sectors) : readU64LE(head, at.sectors)
  if (sectors > maxLength / sectorBytes) {
    throw ioError('EFBIG')
  }
  return sectors * sectorBytes
}
