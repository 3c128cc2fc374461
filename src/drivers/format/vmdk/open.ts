import { readU32BE, readU32LE, readU64LE } from '../../../bytes/index.js'
import { blockError, errnoError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import { type BlockChild, type OpenContext, pathCombine, pathIsAbsolute, Role } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import {
  contentId,
  createType,
  embeddedBytes,
  embeddedOffset,
  extentLines,
  parentName,
  textOf,
} from './descriptor.js'
import { directoryLayout, type Extent, SparseExtent } from './extent.js'
import { VmdkImage } from './image.js'
import { vmdkOptions } from './options.js'
import { openSeSparse } from './se-sparse.js'
import {
  cowdMagic,
  Flag,
  Marker,
  parseSparseHeader,
  type SparseHeader,
  sectorBytes,
  sparseMagic,
} from './sparse-header.js'

/** Bytes of a descriptor that are looked at. */
const maxDescriptor = (1 << 20) - 1
/** Entries of the largest grain directory that is taken into memory (twice): 32 MiB. */
const maxDirectory = 8 << 20
/** Extents of one image. */
const maxExtents = 8192

/** What is found while extents are opened. */
interface Found {
  readonly extents: Extent[]
  createType: string | undefined
}

/**
 * Opens an image: a sparse extent with its descriptor inside, or a descriptor that names extents.
 *
 * @throws BlockError with QEMU's text
 */
export async function open(context: OpenContext): Promise<VmdkImage> {
  const { file, node } = context
  takeOptions(context.options, vmdkOptions)
  const head = await readHead(file)
  const magic = readU32BE(head, 0)
  const found: Found = { extents: [], createType: undefined }
  const isSparse = magic === sparseMagic || magic === cowdMagic
  if (isSparse) {
    await openSparse(context, found, file, head, '')
  } else {
    await openDescribed(context, found, textOf(head))
  }
  const descriptorOffset = isSparse ? embeddedOffset : 0
  const bytes = new Uint8Array(embeddedBytes)
  await readPadded(file.node, descriptorOffset, bytes)
  const descriptor = textOf(bytes.subarray(0, embeddedBytes - 1))
  return new VmdkImage({
    node,
    file,
    extents: found.extents,
    createType: found.createType ?? '',
    parent: parentName(descriptor),
    cid: contentId(descriptor, 'CID'),
    parentCid: contentId(descriptor, 'parentCID'),
    descriptor,
    descriptorOffset,
  })
}

async function readHead(file: BlockChild, offset = 0): Promise<Uint8Array> {
  const { length } = file.node
  if (length < 4) {
    throw blockError('EINVAL', 'File is too small, not a valid image')
  }
  const bytes = new Uint8Array(Math.min(length, maxDescriptor))
  await readPadded(file.node, offset, bytes)
  return bytes
}

/** A descriptor that names its extents. */
async function openDescribed(context: OpenContext, found: Found, text: string): Promise<void> {
  found.createType = createType(text)
  const lines = extentLines(text)
  if (lines.length > maxExtents) {
    throw blockError('EFBIG', `Too many extents (${lines.length})`)
  }
  for (const [index, { sectors, kind, filename, offset }] of lines.entries()) {
    const flat = kind === 'FLAT' || kind === 'VMFS'
    const role = flat ? Role.data : Role.data | Role.metadata
    const file = await context.openImplicitChild(
      `extents.${index}`,
      role,
      besideDescriptor(context, filename),
    )
    const start = endOf(found.extents)
    if (flat) {
      found.extents.push({ flat: true, file, start, length: sectors * sectorBytes, kind, offset })
    } else if (kind === 'SESPARSE') {
      found.extents.push(await openSeSparse(context, file, start, kind))
    } else {
      await openSparse(context, found, file, await readHead(file), kind)
    }
  }
}

function endOf(extents: readonly Extent[]): number {
  const last = extents.at(-1)
  return last === undefined ? 0 : last.start + last.length
}

function besideDescriptor({ file, host }: OpenContext, filename: string): string {
  if (pathIsAbsolute(filename, host.pathStyle)) {
    return filename
  }
  const base = file.node.filename
  if (base === '' || base.startsWith('json:')) {
    const why = 'Cannot generate a base directory for this node'
    throw blockError('ENOTSUP', `Cannot use relative paths with VMDK descriptor file '${base}': ${why}`)
  }
  return pathCombine(base, filename, host.pathStyle)
}

async function openSparse(
  context: OpenContext,
  found: Found,
  file: BlockChild,
  head: Uint8Array,
  kind: string,
): Promise<void> {
  switch (readU32BE(head, 0)) {
    case cowdMagic:
      found.extents.push(await openCowd(found, file, kind))
      return
    case sparseMagic:
      await openHosted(context, found, file, kind)
      return
    default:
      throw blockError('EINVAL', 'Image not in VMDK format')
  }
}

/** A sparse extent of ESX 2 and of snapshots there. */
async function openCowd(found: Found, file: BlockChild, kind: string): Promise<SparseExtent> {
  const bytes = new Uint8Array(sectorBytes)
  await readPadded(file.node, 0, bytes)
  const [capacity, grain, directoryOffset, tables] = [12, 16, 20, 24].map((at) => readU32LE(bytes, at))
  return await sparse(file, {
    start: endOf(found.extents),
    capacity: capacity as number,
    grain: grain as number,
    directoryOffset: directoryOffset as number,
    redundantOffset: undefined,
    tables: tables as number,
    tableEntries: 4096,
    flags: 0,
    compressed: false,
    layoutIsFixed: true,
    kind,
  })
}

async function openHosted(context: OpenContext, found: Found, file: BlockChild, kind: string): Promise<void> {
  const bytes = new Uint8Array(sectorBytes)
  await readPadded(file.node, 0, bytes)
  let header = parseSparseHeader(bytes)
  if (header.capacity === 0 && header.descriptorOffset !== 0) {
    const offset = header.descriptorOffset * sectorBytes
    if (!Number.isSafeInteger(offset)) {
      throw blockError('EINVAL', 'Could not read from file')
    }
    await openDescribed(context, found, textOf(await readHead(file, offset)))
    return
  }
  found.createType ??= 'monolithicSparse'
  const { directoryAtEnd } = header
  if (directoryAtEnd) {
    header = await readFooter(file)
  }
  checkHeader(context, file, header)
  const compressed = header.compression === 1
  if (compressed) {
    found.createType = 'streamOptimized'
  }
  const perTable = header.tableEntries * header.grain
  found.extents.push(
    await sparse(file, {
      start: endOf(found.extents),
      capacity: header.capacity,
      grain: header.grain,
      directoryOffset: header.directoryOffset,
      redundantOffset: (header.flags & Flag.redundant) !== 0 ? header.redundantOffset : undefined,
      tables: Math.ceil(header.capacity / perTable),
      tableEntries: header.tableEntries,
      flags: header.flags,
      compressed,
      layoutIsFixed: directoryAtEnd,
      kind,
    }),
  )
}

/** Streams have the place of their directory at their end. */
async function readFooter(file: BlockChild): Promise<SparseHeader> {
  const bytes = new Uint8Array(3 * sectorBytes)
  const end = Math.ceil(file.node.length / sectorBytes) * sectorBytes
  if (end < bytes.length) {
    throw blockError('EINVAL', 'Invalid footer')
  }
  await readPadded(file.node, end - bytes.length, bytes)
  const last = 2 * sectorBytes
  if (
    readU32BE(bytes, sectorBytes) !== sparseMagic ||
    readU32LE(bytes, 8) !== 0 ||
    readU32LE(bytes, 12) !== Marker.footer ||
    readU64LE(bytes, last) !== 0 ||
    readU32LE(bytes, last + 8) !== 0 ||
    readU32LE(bytes, last + 12) !== Marker.endOfStream
  ) {
    throw blockError('EINVAL', 'Invalid footer')
  }
  return parseSparseHeader(bytes.subarray(sectorBytes))
}

function checkHeader({ flags }: OpenContext, file: BlockChild, header: SparseHeader): void {
  if (header.version > 3) {
    throw blockError('ENOTSUP', `Unsupported VMDK version ${header.version}`)
  }
  if (header.version === 3 && flags.write && header.compression !== 1) {
    throw blockError('EINVAL', 'VMDK version 3 must be read only')
  }
  if (header.tableEntries > 512) {
    throw blockError('EINVAL', 'L2 table size too big')
  }
  if (header.tableEntries * header.grain === 0 || !Number.isSafeInteger(header.grain * 512 * 512)) {
    throw blockError('EINVAL', 'L1 entry size is invalid')
  }
  if (Math.ceil(file.node.length / sectorBytes) < header.overhead) {
    const bytes = header.overhead * sectorBytes
    throw blockError('EINVAL', `File truncated, expecting at least ${bytes} bytes`)
  }
}

interface SparseParts {
  readonly start: number
  readonly capacity: number
  readonly grain: number
  readonly directoryOffset: number
  readonly redundantOffset: number | undefined
  readonly tables: number
  readonly tableEntries: number
  readonly flags: number
  readonly compressed: boolean
  readonly layoutIsFixed: boolean
  readonly kind: string
}

async function sparse(file: BlockChild, parts: SparseParts): Promise<SparseExtent> {
  const { capacity, grain, tables } = parts
  if (grain > 0x200000 || grain === 0) {
    throw blockError('EFBIG', 'Invalid granularity, image may be corrupt')
  }
  if (parts.compressed && grain > 0x8000) {
    throw blockError('EFBIG', `Compressed grains of ${grain} sectors are too large`)
  }
  if (tables > maxDirectory || !Number.isSafeInteger(parts.start + capacity * sectorBytes)) {
    throw blockError('EFBIG', 'L1 size too big')
  }
  const directory = await readDirectory(file, parts.directoryOffset, tables, 'l1 table')
  const copy =
    parts.redundantOffset === undefined || parts.redundantOffset === 0
      ? undefined
      : await readDirectory(file, parts.redundantOffset, tables, 'l1 backup table')
  const zeroGrains = (parts.flags & Flag.zeroGrain) !== 0
  return new SparseExtent({
    file,
    start: parts.start,
    length: capacity * sectorBytes,
    kind: parts.kind,
    layoutIsFixed: parts.layoutIsFixed,
    grainBytes: grain * sectorBytes,
    tables: directoryLayout(directory, copy, parts.tableEntries, zeroGrains),
    compressed: parts.compressed,
    hasMarkers: (parts.flags & Flag.marker) !== 0,
    zeroGrains,
  })
}

async function readDirectory(
  file: BlockChild,
  sector: number,
  entries: number,
  what: string,
): Promise<Uint8Array> {
  const offset = sector * sectorBytes
  if (!Number.isSafeInteger(offset + entries * 4)) {
    throw errnoError('EINVAL', `Could not read ${what} from extent '${file.node.filename}'`)
  }
  if (offset >= file.node.length && entries > 0) {
    // Nothing is there: a directory of zeroes would only take memory.
    return new Uint8Array(0)
  }
  const bytes = new Uint8Array(entries * 4)
  const wait = readPadded(file.node, offset, bytes)
  if (wait !== undefined) {
    await wait
  }
  return bytes
}
