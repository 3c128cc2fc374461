import { readU32LE, readU64LE } from '../../../bytes/index.js'
import { blockError, ioError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import { applyAutoReadOnly, type BlockChild, type OpenContext } from '../../../graph/index.js'
import { SparseExtent, type TableLayout, unallocated, zeroed } from './extent.js'
import { sectorBytes } from './sparse-header.js'

/** Sectors of a grain and of a grain table, in all such extents. */
const grainSectors = 8
const tableSectors = 64
const tableEntries = (tableSectors * sectorBytes) / 8
/** Bytes of the largest directory that is taken into memory. */
const maxDirectory = 32 << 20

function hex(bytes: Uint8Array, at: number): string {
  const half = (from: number): string => readU32LE(bytes, from).toString(16).padStart(8, '0')
  return `0x${half(at + 4)}${half(at)}`
}

function checkConstHeader(bytes: Uint8Array): void {
  if (hex(bytes, 0) !== '0x00000000cafebabe') {
    throw blockError('EINVAL', `Bad const header magic: ${hex(bytes, 0)}`)
  }
  if (hex(bytes, 8) !== '0x0000000200000001') {
    throw blockError('ENOTSUP', `Unsupported version: ${hex(bytes, 8)}`)
  }
  if (readU64LE(bytes, 24) !== grainSectors) {
    throw blockError('ENOTSUP', `Unsupported grain size: ${readU64LE(bytes, 24)}`)
  }
  if (readU64LE(bytes, 32) !== tableSectors) {
    throw blockError('ENOTSUP', `Unsupported grain table size: ${readU64LE(bytes, 32)}`)
  }
  if (readU64LE(bytes, 40) !== 0) {
    throw blockError('ENOTSUP', `Unsupported flags: ${hex(bytes, 40)}`)
  }
  if (bytes.subarray(48, 80).some((byte) => byte !== 0)) {
    const words = [48, 56, 64, 72].map((at) => hex(bytes, at)).join(' ')
    throw blockError('ENOTSUP', `Unsupported reserved bits: ${words}`)
  }
  if (bytes.subarray(208).some((byte) => byte !== 0)) {
    throw blockError('ENOTSUP', 'Unsupported non-zero const header padding')
  }
}

function checkVolatileHeader(bytes: Uint8Array): void {
  if (hex(bytes, 0) !== '0x00000000cafecafe') {
    throw blockError('EINVAL', `Bad volatile header magic: ${hex(bytes, 0)}`)
  }
  if (readU64LE(bytes, 24) !== 0) {
    throw blockError('ENOTSUP', 'Image is dirty, Replaying journal not supported')
  }
  if (bytes.subarray(32).some((byte) => byte !== 0)) {
    throw blockError('ENOTSUP', 'Unsupported non-zero volatile header padding')
  }
}

/** A number of sectors as bytes. @throws BlockError EINVAL above what numbers hold */
function sectors(bytes: Uint8Array, at: number): number {
  const value = readU64LE(bytes, at) * sectorBytes
  if (!Number.isSafeInteger(value)) {
    throw ioError('EINVAL')
  }
  return value
}

/**
 * Opens a space-efficient sparse extent of ESXi, which is read-only here as in QEMU.
 *
 * @param start where it begins on the disk, bytes
 */
export async function openSeSparse(
  context: OpenContext,
  file: BlockChild,
  start: number,
  kind: string,
): Promise<SparseExtent> {
  applyAutoReadOnly(context, 'No write support for seSparse images available')
  const header = new Uint8Array(sectorBytes)
  await readPadded(file.node, 0, header)
  checkConstHeader(header)
  const state = new Uint8Array(sectorBytes)
  await readPadded(file.node, sectors(header, 80), state)
  checkVolatileHeader(state)
  const length = sectors(header, 16)
  const directoryBytes = sectors(header, 136)
  if (directoryBytes > maxDirectory || !Number.isSafeInteger(start + length)) {
    throw blockError('EFBIG', 'L1 size too big')
  }
  const directory = new Uint8Array(directoryBytes)
  await readPadded(file.node, sectors(header, 128), directory)
  const tablesAt = sectors(header, 144)
  const grainsAt = sectors(header, 192) / sectorBytes
  const tables: TableLayout = {
    entries: tableEntries,
    entryBytes: 8,
    count: directoryBytes / 8,
    offset(index) {
      const at = index * 8
      if (at + 8 > directory.length) {
        throw ioError('EIO')
      }
      const low = readU32LE(directory, at)
      const high = readU32LE(directory, at + 4)
      if (low === 0 && high === 0) {
        return undefined
      }
      const offset = tablesAt + low * tableSectors * sectorBytes
      if (high !== 0x10000000 || offset > 0xffffffff * sectorBytes) {
        throw ioError('EIO')
      }
      return offset
    },
    copyOffset: () => undefined,
    entry(table, index) {
      const low = readU32LE(table, index * 8)
      const high = readU32LE(table, index * 8 + 4)
      switch (high >>> 28) {
        case 0:
          if (low !== 0 || high !== 0) {
            throw ioError('EIO')
          }
          return unallocated
        case 1:
        case 2:
          return zeroed
        case 3: {
          // The number of the grain: its twelve lower bits stand in front of the others.
          const number = ((high >>> 16) & 0xfff) + ((high & 0xffff) * 2 ** 32 + low) * 4096
          const sector = grainsAt + number * grainSectors
          if (!Number.isSafeInteger(sector * sectorBytes)) {
            throw ioError('EIO')
          }
          return sector
        }
        default:
          throw ioError('EIO')
      }
    },
  }
  return new SparseExtent({
    layoutIsFixed: true,
    file,
    start,
    length,
    kind,
    grainBytes: grainSectors * sectorBytes,
    tables,
    compressed: false,
    hasMarkers: false,
    zeroGrains: true,
  })
}
