import { readU16LE, readU32LE, readU64LE, writeU16LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'

export const sectorBytes = 512
/** Extents of split images, bytes. */
export const splitBytes = 2 ** 31
export const sparseMagic = 0x4b444d56 // "KDMV"
export const cowdMagic = 0x434f5744 // "COWD"

export const Flag = { newlines: 1, redundant: 2, zeroGrain: 4, compressed: 1 << 16, marker: 1 << 17 } as const

export const Marker = { endOfStream: 0, grainTable: 1, grainDirectory: 2, footer: 3 } as const

/** Places of fields that change, bytes. */
export const at = { capacity: 12, redundantOffset: 48, directoryOffset: 56 } as const

/** Fields of a hosted sparse extent's header; offsets and sizes in sectors. */
export interface SparseHeader {
  readonly version: number
  readonly flags: number
  readonly capacity: number
  readonly grain: number
  readonly descriptorOffset: number
  readonly descriptorSize: number
  readonly tableEntries: number
  readonly redundantOffset: number
  readonly directoryOffset: number
  /** Whether the directory's place is in the footer. */
  readonly directoryAtEnd: boolean
  readonly overhead: number
  /** 1: deflate. */
  readonly compression: number
}

/** @param bytes at least 79 bytes, from the magic on */
export function parseSparseHeader(bytes: Uint8Array): SparseHeader {
  return {
    version: readU32LE(bytes, 4),
    flags: readU32LE(bytes, 8),
    capacity: readU64LE(bytes, 12),
    grain: readU64LE(bytes, 20),
    descriptorOffset: readU64LE(bytes, 28),
    descriptorSize: readU64LE(bytes, 36),
    tableEntries: readU32LE(bytes, 44),
    redundantOffset: readU64LE(bytes, 48),
    directoryOffset: readU64LE(bytes, 56),
    directoryAtEnd: readU32LE(bytes, 56) === 0xffffffff && readU32LE(bytes, 60) === 0xffffffff,
    overhead: readU64LE(bytes, 64),
    compression: readU16LE(bytes, 77),
  }
}

/** The header's sector. */
export function sparseHeaderBytes(header: Omit<SparseHeader, 'directoryAtEnd'>): Uint8Array {
  const bytes = new Uint8Array(sectorBytes)
  bytes.set([0x4b, 0x44, 0x4d, 0x56])
  writeU32LE(bytes, 4, header.version)
  writeU32LE(bytes, 8, header.flags)
  writeU64LE(bytes, 12, header.capacity)
  writeU64LE(bytes, 20, header.grain)
  writeU64LE(bytes, 28, header.descriptorOffset)
  writeU64LE(bytes, 36, header.descriptorSize)
  writeU32LE(bytes, 44, header.tableEntries)
  writeU64LE(bytes, 48, header.redundantOffset)
  writeU64LE(bytes, 56, header.directoryOffset)
  writeU64LE(bytes, 64, header.overhead)
  // Line ends in all their forms: a transfer as text would change them.
  bytes.set([0x0a, 0x20, 0x0d, 0x0a], 73)
  writeU16LE(bytes, 77, header.compression)
  return bytes
}

/** Sizes of what stands in front of the grains of a new extent, sectors. */
export interface SparseLayout {
  readonly grain: number
  readonly tableEntries: number
  readonly tables: number
  readonly directorySectors: number
  readonly redundantOffset: number
  readonly directoryOffset: number
  readonly overhead: number
}

const descriptorSectors = 20

/** The layout QEMU gives an extent of so many sectors. */
export function newLayout(capacity: number): SparseLayout {
  const grain = 128
  const tableEntries = 512
  const tableSectors = (tableEntries * 4) / sectorBytes
  const tables = Math.ceil(Math.ceil(capacity / grain) / tableEntries)
  const directorySectors = Math.ceil((tables * 4) / sectorBytes)
  const redundantOffset = 1 + descriptorSectors
  const directoryOffset = redundantOffset + directorySectors + tableSectors * tables
  const end = directoryOffset + directorySectors + tableSectors * tables
  const overhead = Math.ceil(end / grain) * grain
  return { grain, tableEntries, tables, directorySectors, redundantOffset, directoryOffset, overhead }
}
