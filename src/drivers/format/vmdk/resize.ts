import { readU32LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import { type BlockNode, truncateNode } from '../../../graph/index.js'
import { embeddedBytes, withSize } from './descriptor.js'
import {
  directoryLayout,
  type Extent,
  type FlatExtent,
  type SparseExtent,
  unallocated,
  zeroed,
} from './extent.js'
import { at, Flag, parseSparseHeader, type SparseHeader, sectorBytes, splitBytes } from './sparse-header.js'

/** Sectors are numbered in 32 bits. */
const maxSector = 2 ** 32
/** Tables of the largest directory that is opened. */
const maxTables = 8 << 20

/** What growing needs of an open image. */
export interface Growable {
  readonly node: BlockNode
  readonly file: BlockNode
  readonly extents: readonly Extent[]
  readonly descriptorOffset: number
  readonly createType: string
  /** The descriptor's text, byte for byte. */
  readonly descriptor: string
  /** Throws EINVAL if the backing file is not the one this image was made on. */
  checkParent(): void
}

/**
 * Makes the last extent longer, and with it the disk. What the longer extent needs is made first; a sparse extent's header,
 * one sector, then turns it over at once, and the descriptor follows. In each state a crash can leave, the
 * disk has the old length or the new one and all its data, and what was added reads as zeroes, also where the
 * backing file is longer than the disk was. Nothing of the guest is in flight.
 *
 * @param length bytes, whole sectors, more than now
 * @returns the new text of the descriptor
 * @throws BlockError ENOTSUP if the layout does not allow it, EINVAL for the wrong backing file
 */
export async function grow(image: Growable, length: number): Promise<string> {
  const { extents, createType, node } = image
  const last = extents.at(-1)
  if (last === undefined || (!last.flat && (last.compressed || last.layoutIsFixed))) {
    throw blockError('ENOTSUP', `Resizing '${createType}' images is not supported`)
  }
  const shared = extents.some(
    (other) => other !== last && other.file.node.filename === last.file.node.filename,
  )
  if (shared) {
    throw blockError(
      'ENOTSUP',
      `Extents share the file '${last.file.node.filename}': the last one cannot grow`,
    )
  }
  const extentLength = length - last.start
  if (createType.startsWith('twoGb') && extentLength > splitBytes) {
    const most = last.start + splitBytes
    throw blockError('ENOTSUP', `The last extent can grow to 2 GiB only, the disk to ${most} bytes`)
  }
  const text = withSize(image.descriptor, extents.length - 1, length, extentLength)
  const room = image.descriptorOffset === 0 ? Number.POSITIVE_INFINITY : embeddedBytes - 1
  if (text.length > room) {
    throw blockError('ENOTSUP', 'The descriptor has no room for another size')
  }
  if (last.flat) {
    await growFlat(last, extentLength)
  } else {
    const { backing } = node
    const below = backing !== undefined && backing.length > node.length ? backing : undefined
    if (below !== undefined) {
      image.checkParent()
    }
    await growSparse(last, extentLength, below)
  }
  await writeDescriptor(image, text)
  return text
}

async function growFlat(extent: FlatExtent, length: number): Promise<void> {
  const { node } = extent.file
  const end = extent.offset + length
  const old = extent.offset + extent.length
  // What stands behind the disk's end is not shown so far.
  const hidden = Math.min(node.length, end) - old
  if (hidden > 0) {
    await node.writeZeroes(old, hidden, 0)
  }
  if (node.length < end) {
    await truncateNode(node, end, { exact: false, preallocation: 'off', zero: true })
  }
  await node.flush()
  extent.length = length
}

/** @param below a backing file that is longer than the disk is so far */
async function growSparse(extent: SparseExtent, length: number, below: BlockNode | undefined): Promise<void> {
  const { node } = extent.file
  const sector = new Uint8Array(sectorBytes)
  await readPadded(node, 0, sector)
  const header = parseSparseHeader(sector)
  const perTable = header.tableEntries * header.grain
  const oldTables = Math.ceil(header.capacity / perTable)
  // More than needed if growing further failed before.
  const tables = Math.max(oldTables, Math.ceil(length / sectorBytes / perTable))
  if (tables > maxTables) {
    throw blockError('EFBIG', `Image size is too large for grains of ${extent.grainBytes} bytes`)
  }
  const directories = await readDirectories(node, header, oldTables)
  await zeroRestOfGrain(extent, below)
  await clearRestOfTable(extent, oldTables * header.tableEntries)
  const added = await addTables(extent, header, directories, oldTables, tables)
  if (below !== undefined) {
    const shown = Math.min(length, below.length - extent.start)
    await coverBacking(extent, header, added, oldTables, Math.ceil(shown / extent.grainBytes))
  }
  await node.flush()
  writeU64LE(sector, at.capacity, length / sectorBytes)
  writeU64LE(sector, at.directoryOffset, added.directory)
  writeU64LE(sector, at.redundantOffset, added.redundant ?? header.redundantOffset)
  await node.write(0, sectorBytes, sector, 0, 0)
  await node.flush()
  const zeroGrains = (header.flags & Flag.zeroGrain) !== 0
  extent.grown(length, directoryLayout(added.main, added.copy, header.tableEntries, zeroGrains))
}

interface Directories {
  readonly main: Uint8Array
  readonly copy: Uint8Array | undefined
}

async function readDirectories(node: BlockNode, header: SparseHeader, entries: number): Promise<Directories> {
  const read = async (sector: number): Promise<Uint8Array> => {
    const bytes = new Uint8Array(entries * 4)
    await readPadded(node, sector * sectorBytes, bytes)
    return bytes
  }
  const hasCopy = (header.flags & Flag.redundant) !== 0 && header.redundantOffset !== 0
  return {
    main: await read(header.directoryOffset),
    copy: hasCopy ? await read(header.redundantOffset) : undefined,
  }
}

/** The last grain shows more of itself when the disk is longer; one that is not there, more of the backing file. */
async function zeroRestOfGrain(extent: SparseExtent, below: BlockNode | undefined): Promise<void> {
  const { node } = extent.file
  const used = extent.length % extent.grainBytes
  if (used === 0) {
    return
  }
  const grain = Math.floor(extent.length / extent.grainBytes)
  if (!extent.hasTable(grain)) {
    await extent.load(grain)
  }
  const entry = extent.entry(grain)
  if (entry > zeroed) {
    await node.writeZeroes(entry * sectorBytes + used, extent.grainBytes - used, 0)
  } else if (entry === unallocated && below !== undefined) {
    assertTable(extent, grain)
    const bytes = new Uint8Array(extent.grainBytes)
    await below.read(extent.start + extent.length - used, used, bytes, 0, 0)
    const { sector } = extent.take()
    assertEnd(sector + extent.grainBytes / sectorBytes)
    await node.write(sector * sectorBytes, bytes.length, bytes, 0, 0)
    await node.flush()
    extent.set(grain, sector)
  }
}

function assertTable(extent: SparseExtent, grain: number): void {
  if (!extent.canSet(grain)) {
    throw blockError('ENOTSUP', 'Cannot grow over a longer backing file: a grain table is missing')
  }
}

function assertEnd(sector: number): void {
  if (sector > maxSector) {
    throw blockError('EFBIG', 'Image size is too large: its grains lie beyond 2 TiB of the file')
  }
}

/** So does the last table. `entries`: of all tables. */
async function clearRestOfTable(extent: SparseExtent, entries: number): Promise<void> {
  for (let grain = Math.ceil(extent.length / extent.grainBytes); grain < entries; grain++) {
    if (!extent.hasTable(grain)) {
      await extent.load(grain)
    }
    if (extent.canSet(grain) && extent.entry(grain) !== unallocated) {
      extent.set(grain, unallocated)
    }
  }
  await extent.writeTables()
}

interface Added extends Directories {
  /** Where the directories stand now, sectors. */
  readonly directory: number
  readonly redundant: number | undefined
}

/** Puts empty tables, and directories if theirs have no room, behind everything else. Nothing refers to them yet. */
async function addTables(
  extent: SparseExtent,
  header: SparseHeader,
  old: Directories,
  oldTables: number,
  tables: number,
): Promise<Added> {
  const { node } = extent.file
  const tableSectors = Math.ceil((header.tableEntries * 4) / sectorBytes)
  const directorySectors = (count: number): number => Math.ceil((count * 4) / sectorBytes)
  const copies = old.copy === undefined ? 1 : 2
  const count = tables - oldTables
  const moves = directorySectors(tables) > directorySectors(oldTables)
  const grain = header.grain
  const start = Math.ceil(Math.max(extent.next, Math.ceil(node.length / sectorBytes)) / grain) * grain
  const needed = copies * (count * tableSectors + (moves ? directorySectors(tables) : 0))
  const end = Math.ceil((start + needed) / grain) * grain
  if (end > maxSector) {
    throw blockError('EFBIG', 'Image size is too large: its tables lie beyond 2 TiB of the file')
  }
  if (needed > 0) {
    await truncateNode(node, end * sectorBytes, { exact: false, preallocation: 'off', zero: true })
    extent.next = end
  }
  let next = start
  const longer = async (directory: Uint8Array, sector: number): Promise<[Uint8Array, number]> => {
    const bytes = new Uint8Array(directorySectors(tables) * sectorBytes)
    bytes.set(directory)
    for (let table = oldTables; table < tables; table++) {
      writeU32LE(bytes, table * 4, next)
      next += tableSectors
    }
    let place = sector
    if (moves) {
      place = next
      next += directorySectors(tables)
    }
    if (count > 0) {
      // In place only entries change that the old length does not reach.
      const from = moves ? 0 : Math.floor((oldTables * 4) / sectorBytes) * sectorBytes
      await node.write(place * sectorBytes + from, bytes.length - from, bytes, from, 0)
    }
    return [bytes.subarray(0, tables * 4), place]
  }
  const [main, directory] = await longer(old.main, header.directoryOffset)
  const [copy, redundant] =
    old.copy === undefined ? [undefined, undefined] : await longer(old.copy, header.redundantOffset)
  return { main, copy, directory, redundant }
}

/**
 * Gives every new grain below `end` an entry that hides the backing file: a zeroed one, or a place behind everything else
 * that reads as zeroes. The tables of the old directory come first.
 */
async function coverBacking(
  extent: SparseExtent,
  header: SparseHeader,
  added: Added,
  oldTables: number,
  end: number,
): Promise<void> {
  const { node } = extent.file
  const perTable = header.tableEntries
  const first = Math.ceil(extent.length / extent.grainBytes)
  if (end <= first) {
    return
  }
  let next = zeroed
  const step = (header.flags & Flag.zeroGrain) !== 0 ? 0 : header.grain
  if (step > 0) {
    next = Math.ceil(Math.max(extent.next, Math.ceil(node.length / sectorBytes)) / step) * step
    const grownTo = next + (end - first) * step
    assertEnd(grownTo)
    await truncateNode(node, grownTo * sectorBytes, { exact: false, preallocation: 'off', zero: true })
    extent.next = grownTo
  }
  const inOldTables = Math.min(end, oldTables * perTable)
  for (let grain = first; grain < inOldTables; grain++, next += step) {
    if (!extent.hasTable(grain)) {
      await extent.load(grain)
    }
    assertTable(extent, grain)
    extent.set(grain, next)
  }
  await node.flush()
  await extent.writeTables()
  for (let grain = Math.max(first, inOldTables); grain < end; ) {
    const table = Math.floor(grain / perTable)
    const bytes = new Uint8Array(perTable * 4)
    for (; grain < end && grain < (table + 1) * perTable; grain++, next += step) {
      writeU32LE(bytes, (grain % perTable) * 4, next)
    }
    for (const directory of added.copy === undefined ? [added.main] : [added.copy, added.main]) {
      await node.write(readU32LE(directory, table * 4) * sectorBytes, bytes.length, bytes, 0, 0)
    }
  }
}

/** From the first byte that changes on; what remains of a longer one inside an image is cleared. */
async function writeDescriptor(image: Growable, text: string): Promise<void> {
  const { descriptor: old, descriptorOffset, file } = image
  let from = 0
  while (from < text.length && text[from] === old[from]) {
    from++
  }
  const bytes = new Uint8Array(Math.max(text.length, old.length) - from)
  for (let i = from; i < text.length; i++) {
    bytes[i - from] = text.charCodeAt(i)
  }
  if (bytes.length > 0) {
    await file.write(descriptorOffset + from, bytes.length, bytes, 0, 0)
    await file.flush()
  }
}
