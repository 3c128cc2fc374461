import { readU32LE, readU64LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import { maxLength } from '../../../io/index.js'

/** `QED` and 0. */
export const magic = 0x00444551
/** Bytes of the header's fields; the backing file's name follows them. */
export const headerBytes = 64
export const sectorBytes = 512
export const clusterRange = { min: 4096, max: 1 << 26, default: 1 << 16 }
/** Clusters of a table. */
export const tableRange = { min: 1, max: 16, default: 4 }
/** QEMU's limit for any name. */
export const maxBackingNameBytes = 4095

export const Feature = { backingFile: 1, needCheck: 2, backingIsRaw: 4 } as const
const knownFeatures = 7

const at = {
  magic: 0,
  clusterSize: 4,
  tableSize: 8,
  headerSize: 12,
  features: 16,
  compatible: 24,
  autoclear: 32,
  l1Offset: 40,
  size: 48,
  backingOffset: 56,
  backingBytes: 60,
} as const

/** What the header says, and how it changes. Sizes and offsets are bytes unless said. */
export class QedHeader {
  /** The first bytes of the file, {@link headerBytes} of them. */
  readonly bytes: Uint8Array

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  get clusterSize(): number {
    return readU32LE(this.bytes, at.clusterSize)
  }

  /** Clusters of a table. */
  get tableClusters(): number {
    return readU32LE(this.bytes, at.tableSize)
  }

  get tableBytes(): number {
    return this.tableClusters * this.clusterSize
  }

  /** What stands in front of everything else, with the backing file's name; whole clusters. */
  get headerEnd(): number {
    return readU32LE(this.bytes, at.headerSize) * this.clusterSize
  }

  /** Guest bytes that one table of the second level maps. */
  get span(): number {
    return (this.tableBytes / 8) * this.clusterSize
  }

  /** {@link Feature} bits; only the lower half, as all others are refused. */
  get features(): number {
    return readU32LE(this.bytes, at.features)
  }

  set features(value: number) {
    writeU32LE(this.bytes, at.features, value)
  }

  /** Bits that those who do not know them may ignore, as long as they add nothing to the header. */
  get hasUnknownCompatible(): boolean {
    return this.bytes.subarray(at.compatible, at.compatible + 8).some((byte) => byte !== 0)
  }

  /** Bits that a program that does not know them clears before it writes. */
  get hasUnknownAutoclear(): boolean {
    return this.bytes.subarray(at.autoclear, at.autoclear + 8).some((byte) => byte !== 0)
  }

  clearAutoclear(): void {
    this.bytes.fill(0, at.autoclear, at.autoclear + 8)
  }

  get needsCheck(): boolean {
    return (this.features & Feature.needCheck) !== 0
  }

  set needsCheck(needed: boolean) {
    this.features = needed ? this.features | Feature.needCheck : this.features & ~Feature.needCheck
  }

  get l1Offset(): number {
    return readU64LE(this.bytes, at.l1Offset)
  }

  /** Length of the disk. */
  get size(): number {
    return readU64LE(this.bytes, at.size)
  }

  set size(value: number) {
    writeU64LE(this.bytes, at.size, value)
  }

  get hasBackingFile(): boolean {
    return (this.features & Feature.backingFile) !== 0
  }

  get backingOffset(): number {
    return readU32LE(this.bytes, at.backingOffset)
  }

  get backingBytes(): number {
    return readU32LE(this.bytes, at.backingBytes)
  }

  /** @param bytes of the name, right behind the fields; undefined: none */
  setBacking(bytes: number | undefined, isRaw: boolean): void {
    this.features &= ~(Feature.backingFile | Feature.backingIsRaw)
    if (bytes !== undefined) {
      this.features |= Feature.backingFile | (isRaw ? Feature.backingIsRaw : 0)
    }
    writeU32LE(this.bytes, at.backingOffset, bytes === undefined ? 0 : headerBytes)
    writeU32LE(this.bytes, at.backingBytes, bytes ?? 0)
  }
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0
}

export function isClusterSize(bytes: number): boolean {
  return bytes >= clusterRange.min && bytes <= clusterRange.max && isPowerOfTwo(bytes)
}

export function isTableSize(clusters: number): boolean {
  return clusters >= tableRange.min && clusters <= tableRange.max && isPowerOfTwo(clusters)
}

/** Longest disk that these tables map, bytes. */
export function mappableBytes(clusterSize: number, tableClusters: number): number {
  const entries = (tableClusters * clusterSize) / 8
  return entries * entries * clusterSize
}

export interface NewImage {
  readonly size: number
  readonly clusterSize: number
  readonly tableClusters: number
  readonly backingBytes: number | undefined
  readonly backingIsRaw: boolean
}

export function makeHeader(image: NewImage): QedHeader {
  const header = new QedHeader(new Uint8Array(headerBytes))
  const { bytes } = header
  writeU32LE(bytes, at.magic, magic)
  writeU32LE(bytes, at.clusterSize, image.clusterSize)
  writeU32LE(bytes, at.tableSize, image.tableClusters)
  writeU32LE(bytes, at.headerSize, 1)
  writeU64LE(bytes, at.l1Offset, image.clusterSize)
  header.size = image.size
  header.setBacking(image.backingBytes, image.backingIsRaw)
  return header
}

function invalid(text: string): Error {
  return blockError('EINVAL', text)
}

/** Checks the fields in QEMU's order, for a file of `fileLength` bytes. @throws BlockError with QEMU's text */
export function checkHeader(header: QedHeader, fileLength: number): void {
  const { bytes, clusterSize, tableClusters } = header
  if (readU32LE(bytes, at.magic) !== magic) {
    throw invalid('Image not in QED format')
  }
  const unknown = [readU32LE(bytes, at.features + 4), readU32LE(bytes, at.features) & ~knownFeatures] as const
  if (unknown[0] !== 0 || unknown[1] !== 0) {
    const bits = (BigInt(unknown[0]) << 32n) | BigInt(unknown[1] >>> 0)
    throw blockError('ENOTSUP', `Unsupported QED features: ${bits.toString(16)}`)
  }
  if (!isClusterSize(clusterSize)) {
    throw invalid('QED cluster size is invalid')
  }
  if (!isTableSize(tableClusters)) {
    throw invalid('QED table size is invalid')
  }
  if (header.size % sectorBytes !== 0 || header.size > mappableBytes(clusterSize, tableClusters)) {
    throw invalid('QED image size is invalid')
  }
  if (!isTablePlace(header, header.l1Offset, fileEnd(header, fileLength))) {
    throw invalid('QED table offset is invalid')
  }
  if (header.hasBackingFile && header.backingOffset + header.backingBytes > header.headerEnd) {
    throw invalid('QED backing filename offset is invalid')
  }
  if (header.size > maxLength) {
    throw blockError('EFBIG', `QED image size is above ${maxLength}`)
  }
}

/** The file without the part of a cluster that may be at its end, bytes. */
export function fileEnd({ clusterSize }: QedHeader, fileLength: number): number {
  return Math.floor(fileLength / clusterSize) * clusterSize
}

/** Whether a cluster can be at `offset` of a file that ends at `end`. */
export function isClusterPlace({ clusterSize, headerEnd }: QedHeader, offset: number, end: number): boolean {
  return offset % clusterSize === 0 && offset >= headerEnd && offset < end
}

/** Whether a table can be at `offset` of a file that ends at `end`. */
export function isTablePlace(header: QedHeader, offset: number, end: number): boolean {
  return (
    isClusterPlace(header, offset, end) &&
    isClusterPlace(header, offset + header.tableBytes - header.clusterSize, end)
  )
}
