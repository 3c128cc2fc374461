import { blockError, codeOf, errnoError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'
import { ByteReader } from './byte-reader.js'
import { tableEntryBytes } from './constants.js'
import { readInside } from './file-read.js'
import type { BitmapsExtension, Qcow2Header } from './header.js'

/** A persistent dirty bitmap as the directory describes it. */
export interface BitmapEntry {
  readonly name: string
  /** Bytes a bit stands for. */
  readonly granularity: number
  readonly tableOffset: number
  /** Entries of 8 bytes. */
  readonly tableSize: number
  /** The bitmap was not written back: its contents mean nothing. */
  readonly inUse: boolean
  /** Records writes without being asked to. */
  readonly auto: boolean
}

const entryHeaderBytes = 24
const maxTableEntries = 0x8000000
const maxBitmapBytes = 0x20000000
const maxNameBytes = 1023

/**
 * Parses a bitmap directory. Pure.
 *
 * @param bytes the directory as far as the file holds it; what is missing counts as zeroes
 * @throws EINVAL with QEMU's text
 */
export function parseBitmapDirectory(
  bytes: Uint8Array,
  extension: BitmapsExtension,
  header: Qcow2Header,
): BitmapEntry[] {
  const reader = new ByteReader(bytes)
  const end = extension.directorySize
  if (end === 0) {
    throw blockError('EINVAL', 'Requested bitmap directory size is zero')
  }
  const entries: BitmapEntry[] = []
  let at = 0
  while (at < end) {
    if (at + entryHeaderBytes > end) {
      throw broken()
    }
    if (entries.length === extension.count) {
      throw blockError('EINVAL', 'More bitmaps found than specified in header extension')
    }
    const nameBytes = reader.u16(at + 18)
    const extraBytes = reader.u32(at + 20)
    const next = at + Math.ceil((entryHeaderBytes + nameBytes + extraBytes) / 8) * 8
    if (next > end) {
      throw broken()
    }
    if (extraBytes !== 0) {
      throw blockError('EINVAL', 'Bitmap extra data is not supported')
    }
    const name = reader.text(at + entryHeaderBytes, nameBytes).text
    if (!validEntry(reader, at, nameBytes, header)) {
      throw blockError('EINVAL', `Bitmap '${name}' doesn't satisfy the constraints`)
    }
    const flags = reader.u32(at + 12)
    entries.push({
      name,
      granularity: 2 ** reader.u8(at + 17),
      tableOffset: Number(reader.u64(at)),
      tableSize: reader.u32(at + 8),
      inUse: (flags & 1) !== 0,
      auto: (flags & 2) !== 0,
    })
    at = next
  }
  if (entries.length !== extension.count) {
    throw blockError('EINVAL', 'Less bitmaps found than specified in header extension')
  }
  return entries
}

function broken() {
  return blockError('EINVAL', 'Broken bitmap directory')
}

function validEntry(reader: ByteReader, at: number, nameBytes: number, header: Qcow2Header): boolean {
  const offset = reader.u64(at)
  const tableSize = reader.u32(at + 8)
  const flags = reader.u32(at + 12)
  const granularityBits = reader.u8(at + 17)
  if (
    tableSize === 0 ||
    offset === 0n ||
    offset % BigInt(header.clusterSize) !== 0n ||
    tableSize > maxTableEntries ||
    granularityBits > 31 ||
    granularityBits < 9 ||
    flags > 3 ||
    nameBytes > maxNameBytes ||
    reader.u8(at + 16) !== 1
  ) {
    return false
  }
  const bitmapBytes = tableSize * header.clusterSize
  const inUse = (flags & 1) !== 0
  return bitmapBytes <= maxBitmapBytes && (inUse || header.size <= bitmapBytes * 8 * 2 ** granularityBits)
}

/**
 * Reads and checks the bitmap directory; an image without one has no entries.
 *
 * @param file the node that holds the image
 */
export async function readBitmapDirectory(file: IoNode, header: Qcow2Header): Promise<BitmapEntry[]> {
  const extension = header.bitmaps
  if (extension === undefined) {
    return []
  }
  try {
    return parseBitmapDirectory(
      await readInside(file, extension.directoryOffset, extension.directorySize),
      extension,
      header,
    )
  } catch (error) {
    if (codeOf(error) === 'EINVAL') {
      throw error
    }
    throw errnoError(codeOf(error), 'Failed to read bitmap directory', { cause: error })
  }
}

/** Bytes of the directory entry of a bitmap called `name`. */
export function bitmapEntryBytes(name: string): number {
  return Math.ceil((entryHeaderBytes + new TextEncoder().encode(name).length) / 8) * 8
}

/**
 * Checks directory and tables as an open in QEMU does, which loads the bitmaps.
 *
 * @throws EINVAL with QEMU's text
 */
export async function checkBitmaps(file: IoNode, header: Qcow2Header): Promise<void> {
  const names = new Set<string>()
  for (const bitmap of await readBitmapDirectory(file, header)) {
    const { name } = bitmap
    if (names.has(name)) {
      throw blockError('EINVAL', `Bitmap already exists: ${name}`)
    }
    names.add(name)
    if (bitmap.inUse) {
      continue
    }
    try {
      await readBitmapClusters(file, header, bitmap)
    } catch (error) {
      throw errnoError(codeOf(error), `Could not read bitmap_table table from image for bitmap '${name}'`, {
        cause: error,
      })
    }
    // Bitmaps are stored in words of 64 bits.
    const words = Math.ceil(Math.ceil(header.size / bitmap.granularity) / 64)
    if (bitmap.tableSize !== Math.ceil((words * 8) / header.clusterSize)) {
      throw errnoError('EINVAL', `Could not read bitmap '${name}' from image`)
    }
  }
}

/** Offset bits of a bitmap table entry, and bits that must be zero: words 63..32 and 31..0. */
const offsetMask = [0x00ffffff, 0xfffffe00] as const
const reservedMask = [0xff000000, 0x000001fe] as const

/**
 * The clusters a bitmap's table points to, as byte offsets; bitmaps keep runs of equal bits without
 * a cluster.
 *
 * @throws EINVAL if an entry is not valid
 */
export async function readBitmapClusters(
  file: IoNode,
  header: Qcow2Header,
  bitmap: BitmapEntry,
): Promise<number[]> {
  const table = await readInside(file, bitmap.tableOffset, bitmap.tableSize * tableEntryBytes)
  const reader = new ByteReader(table)
  const clusters: number[] = []
  for (let at = 0; at < table.length; at += tableEntryBytes) {
    const high = reader.u32(at)
    const low = reader.u32(at + 4)
    const offset = (high & offsetMask[0]) * 0x100000000 + ((low & offsetMask[1]) >>> 0)
    if (
      (high & reservedMask[0]) !== 0 ||
      (low & reservedMask[1]) !== 0 ||
      (offset !== 0 && ((low & 1) !== 0 || offset % header.clusterSize !== 0))
    ) {
      throw blockError('EINVAL', 'Invalid argument')
    }
    if (offset !== 0) {
      clusters.push(offset)
    }
  }
  return clusters
}
