import { readU32LE, readU64LE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'

/** Bytes of a header, which is followed by whatever its `header` field says. */
export const headerBytes = 512

const version1 = 0x0001_0000
const version2 = 0x0002_0000
/** What the largest image of bximage needs (8 TiB), and a bound of memory. Entries. */
const maxCatalog = 0x10_0000
const maxExtentBytes = 0x80_0000
const sectorBytes = 512

export interface BochsHeader {
  /** Guest length in bytes. */
  readonly length: number
  /** Where the catalog starts in the file, bytes, and how many entries it has. */
  readonly catalogOffset: number
  readonly catalogEntries: number
  /** Where the first extent's bitmap starts. */
  readonly dataOffset: number
  /** Sectors of an extent's bitmap, and of its data; both wrap at 2^32 as in QEMU. */
  readonly bitmapSectors: number
  readonly extentSectors: number
  /** Bytes of an extent: a power of two from 512 to 8 MiB. */
  readonly extentBytes: number
}

/** Whether the field of `size` bytes at `at` holds exactly `text` as a C string. */
function holds(bytes: Uint8Array, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    if (bytes[at + i] !== text.charCodeAt(i)) {
      return false
    }
  }
  return bytes[at + text.length] === 0
}

/** Whether `head` starts a growing redolog of Bochs. */
export function isBochs(head: Uint8Array): boolean {
  if (
    head.length < headerBytes ||
    !holds(head, 0, 'Bochs Virtual HD Image') ||
    !holds(head, 32, 'Redolog') ||
    !holds(head, 48, 'Growing')
  ) {
    return false
  }
  const version = readU32LE(head, 64)
  return version === version1 || version === version2
}

/** @throws BlockError with QEMU's text if this is no image that can be read */
export function parseHeader(head: Uint8Array): BochsHeader {
  if (!isBochs(head)) {
    throw blockError('EINVAL', 'Image not in Bochs format')
  }
  // Later versions align the disk's size.
  const length = readU64LE(head, readU32LE(head, 64) === version1 ? 84 : 88)
  const catalogOffset = readU32LE(head, 68)
  const catalogEntries = readU32LE(head, 72)
  if (catalogEntries > maxCatalog) {
    throw blockError('EFBIG', 'Catalog size is too large')
  }
  const extentBytes = readU32LE(head, 80)
  if (extentBytes < sectorBytes) {
    throw blockError('EINVAL', 'Extent size must be at least 512')
  }
  if ((extentBytes & (extentBytes - 1)) !== 0) {
    throw blockError('EINVAL', `Extent size ${extentBytes} is not a power of two`)
  }
  if (extentBytes > maxExtentBytes) {
    throw blockError('EINVAL', `Extent size ${extentBytes} is too large`)
  }
  const extentSectors = extentBytes / sectorBytes
  const sectors = Math.floor(length / sectorBytes)
  if (catalogEntries < Math.ceil(sectors / extentSectors)) {
    throw blockError('EINVAL', 'Catalog size is too small for this disk size')
  }
  return {
    length: sectors * sectorBytes,
    catalogOffset,
    catalogEntries,
    dataOffset: (catalogOffset + catalogEntries * 4) >>> 0,
    bitmapSectors: 1 + Math.floor(((readU32LE(head, 76) - 1) >>> 0) / sectorBytes),
    extentSectors,
    extentBytes,
  }
}
