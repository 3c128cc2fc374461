import { blockError, codeOf, errnoError, ioError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'
import { ByteReader } from './byte-reader.js'
import { readInside } from './file-read.js'
import type { BitmapsExtension, Qcow2Header } from './header.js'

/** A persistent dirty bitmap as the directory describes it. */
export interface BitmapEntry {
  readonly name: string
  /** The name as stored; text that is not UTF-8 has changed in {@link name}. */
  readonly nameBytes: Uint8Array
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
export const maxTableEntries = 0x8000000
/** Bytes of one bitmap. */
export const maxBitmapBytes = 0x20000000
export const maxNameBytes = 1023
export const minGranularityBits = 9
export const maxGranularityBits = 31
/** The only type there is: a dirty tracking bitmap. */
const dirtyTracking = 1

const EntryFlags = { inUse: 1, auto: 2 } as const

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
    // QEMU adds in 32 bits: the most extra data is not too much, only unknown.
    const entryBytes = (entryHeaderBytes + nameBytes + extraBytes + 7) | 0
    const next = at + (entryBytes - (entryBytes % 8))
    if (next > end) {
      throw broken()
    }
    if (extraBytes !== 0) {
      throw blockError('EINVAL', 'Bitmap extra data is not supported')
    }
    const { text: name, bytes: rawName } = reader.text(at + entryHeaderBytes, nameBytes)
    if (!validEntry(reader, at, nameBytes, header)) {
      throw blockError('EINVAL', `Bitmap '${name}' doesn't satisfy the constraints`)
    }
    const flags = reader.u32(at + 12)
    entries.push({
      name,
      nameBytes: rawName,
      granularity: 2 ** reader.u8(at + 17),
      tableOffset: Number(reader.u64(at)),
      tableSize: reader.u32(at + 8),
      inUse: (flags & EntryFlags.inUse) !== 0,
      auto: (flags & EntryFlags.auto) !== 0,
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
    granularityBits > maxGranularityBits ||
    granularityBits < minGranularityBits ||
    flags > (EntryFlags.inUse | EntryFlags.auto) ||
    nameBytes > maxNameBytes ||
    reader.u8(at + 16) !== dirtyTracking
  ) {
    return false
  }
  const bitmapBytes = tableSize * header.clusterSize
  const inUse = (flags & EntryFlags.inUse) !== 0
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

/** Bytes of the directory entry of a bitmap whose name takes `nameBytes`. */
export function bitmapEntryBytes(nameBytes: number): number {
  return Math.ceil((entryHeaderBytes + nameBytes) / 8) * 8
}

/** The bytes of a directory. @throws EINVAL if an entry breaks the rules for an image like `header` */
export function serializeBitmapDirectory(entries: readonly BitmapEntry[], header: Qcow2Header): Uint8Array {
  const bytes = new Uint8Array(
    entries.reduce((sum, { nameBytes }) => sum + bitmapEntryBytes(nameBytes.length), 0),
  )
  const view = new DataView(bytes.buffer)
  const reader = new ByteReader(bytes)
  let at = 0
  for (const { nameBytes, granularity, tableOffset, tableSize, inUse, auto } of entries) {
    view.setUint32(at, Math.floor(tableOffset / 0x100000000))
    view.setUint32(at + 4, tableOffset % 0x100000000)
    view.setUint32(at + 8, tableSize)
    view.setUint32(at + 12, (inUse ? EntryFlags.inUse : 0) | (auto ? EntryFlags.auto : 0))
    view.setUint8(at + 16, dirtyTracking)
    view.setUint8(at + 17, Math.log2(granularity))
    view.setUint16(at + 18, nameBytes.length)
    bytes.set(nameBytes, at + entryHeaderBytes)
    if (!validEntry(reader, at, nameBytes.length, header)) {
      throw ioError('EINVAL')
    }
    at += bitmapEntryBytes(nameBytes.length)
  }
  return bytes
}
