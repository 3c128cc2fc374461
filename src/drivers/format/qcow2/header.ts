import { type BlockError, blockError, errnoError } from '../../../errors/index.js'
import { ByteReader } from './byte-reader.js'
import {
  Autoclear,
  CompressionType,
  CryptMethod,
  ExtensionMagic,
  headerLengthV2,
  headerLengthV3,
  headerLengthV3Min,
  Incompatible,
  maxBackingFileBytes,
  maxBitmapDirectoryBytes,
  maxBitmaps,
  maxClusterBits,
  maxL1Bytes,
  maxRefcountTableBytes,
  maxSnapshots,
  minClusterBits,
  qcow2Magic,
  snapshotHeaderBytes,
  tableEntryBytes,
} from './constants.js'
import { maxFileOffset } from './file-read.js'

/** A header extension this driver does not interpret. */
export interface HeaderExtension {
  /** 32-bit type. */
  readonly magic: number
  readonly data: Uint8Array
}

/** One line of the feature name table. */
export interface FeatureName {
  /** 0 incompatible, 1 compatible, 2 autoclear. */
  readonly type: number
  readonly bit: number
  readonly name: string
}

/** The bitmaps extension: where the directory of persistent dirty bitmaps stands. */
export interface BitmapsExtension {
  count: number
  /** Bytes. */
  directorySize: number
  directoryOffset: number
}

/** The full disk encryption header pointer. */
export interface CryptoExtension {
  offset: number
  /** Bytes. */
  length: number
}

/**
 * A parsed header. Sizes and offsets are bytes; offsets lie below 2^63 and are exact when they are
 * cluster aligned (all table offsets are, once {@link parseHeader} has accepted them).
 */
export interface Qcow2Header {
  version: 2 | 3
  backingFile: string | undefined
  /** Where the name stands; 0 without one. {@link serializeHeader} places it anew. */
  backingFileOffset: number
  /** The name's bytes, kept only if they are not UTF-8. */
  backingFileBytes: Uint8Array | undefined
  /** 9 to 21. */
  clusterBits: number
  clusterSize: number
  /** Guest size in bytes, rounded down to 512 as QEMU does. */
  size: number
  cryptMethod: number
  /** Entries. */
  l1Size: number
  l1TableOffset: number
  /** Index of the first L1 entry past the guest disk: where VM state begins. At most {@link l1Size}. */
  l1VmStateIndex: number
  refcountTableOffset: number
  refcountTableClusters: number
  snapshotCount: number
  snapshotsOffset: number
  /** `Incompatible` bits; unknown ones never get past {@link parseHeader}. */
  incompatible: number
  /** `Compatible` bits, and the upper 32 of the 64, which are only kept. */
  compatible: number
  compatibleHigh: number
  /** `Autoclear` bits, and the upper 32 of the 64. */
  autoclear: number
  autoclearHigh: number
  /** log2 of the refcount width in bits, 0 to 6. */
  refcountOrder: number
  headerLength: number
  compressionType: number
  /** Header bytes from 112 to `headerLength`, which this driver only keeps. */
  unknownFields: Uint8Array
  backingFormat: string | undefined
  /** As found in the image; {@link serializeHeader} writes QEMU's table. */
  featureNames: FeatureName[]
  /** Name of the external data file. */
  dataFile: string | undefined
  crypto: CryptoExtension | undefined
  bitmaps: BitmapsExtension | undefined
  /** Extensions of unknown type, in file order. */
  unknownExtensions: HeaderExtension[]
  /** Texts for the user about what was found, to be printed after `warning: `. */
  warnings: string[]
}

export interface HeaderMode {
  /** The open is for check: the refcount table and the snapshots may be missing or broken. */
  readonly check?: boolean
  /** The open is for writing: corrupt images are refused. */
  readonly write?: boolean
  /** Only metadata is asked for: what guest data needs may be missing. */
  readonly noIo?: boolean
}

/**
 * How many bytes from the start of the file {@link parseHeader} needs, judged by the first 112:
 * one cluster, or 112 if these are no qcow2 header.
 */
export function headerBytesNeeded(head: Uint8Array): number {
  const reader = new ByteReader(head)
  const clusterBits = reader.u32(20)
  return reader.u32(0) === qcow2Magic && clusterBits >= minClusterBits && clusterBits <= maxClusterBits
    ? 2 ** clusterBits
    : headerLengthV3
}

const maxInt64 = (1n << 63n) - 1n

function invalid(message: string): BlockError {
  return blockError('EINVAL', message)
}

/** Checks place and size of a table, and returns its offset as a number. */
function tableOffset(
  name: string,
  offset: bigint,
  entries: number,
  entryBytes: number,
  maxBytes: number,
  clusterSize: number,
): number {
  if (entries > Math.floor(maxBytes / entryBytes)) {
    throw blockError('EFBIG', `${name} too large`)
  }
  if (maxInt64 - BigInt(entries * entryBytes) < offset || offset % BigInt(clusterSize) !== 0n) {
    throw invalid(`${name} offset invalid`)
  }
  return Number(offset)
}

/** Entries the L1 table needs for `size` guest bytes; wraps at 2^64 as QEMU's arithmetic does. */
function l1EntriesFor(size: bigint, clusterBits: number, l2EntryBytes: number): bigint {
  const shift = BigInt(clusterBits + clusterBits - Math.log2(l2EntryBytes))
  return BigInt.asUintN(64, size + (1n << shift) - 1n) >> shift
}

/**
 * Parses the header at the start of an image. Pure.
 *
 * @param bytes the first cluster of the file, or as much of it as the file has
 *   (see {@link headerBytesNeeded}); missing bytes count as zeroes
 * @throws BlockError with QEMU's text, checks in QEMU's order
 */
export function parseHeader(bytes: Uint8Array, mode: HeaderMode = {}): Qcow2Header {
  const reader = new ByteReader(bytes)
  if (reader.u32(0) !== qcow2Magic) {
    throw invalid('Image is not in qcow2 format')
  }
  const version = reader.u32(4)
  if (version !== 2 && version !== 3) {
    throw blockError('ENOTSUP', `Unsupported qcow2 version ${version}`)
  }
  const clusterBits = reader.u32(20)
  if (clusterBits < minClusterBits || clusterBits > maxClusterBits) {
    throw invalid(`Unsupported cluster size: 2^${clusterBits}`)
  }
  const clusterSize = 2 ** clusterBits
  const v3 = version === 3
  const headerLength = v3 ? reader.u32(100) : headerLengthV2
  if (v3 && headerLength < headerLengthV3Min) {
    throw invalid('qcow2 header too short')
  }
  if (headerLength > clusterSize) {
    throw invalid('qcow2 header exceeds cluster size')
  }
  const backingFileOffset = reader.u64(8)
  if (backingFileOffset > BigInt(clusterSize)) {
    throw invalid('Invalid backing file offset')
  }
  const nameOffset = Number(backingFileOffset)
  const extensionsEnd = nameOffset === 0 ? clusterSize : nameOffset

  const incompatible = v3 ? reader.u64(72) : 0n
  const compressionType = v3 && headerLength > 104 ? reader.u8(104) : CompressionType.zlib
  checkCompressionType(compressionType, (incompatible & BigInt(Incompatible.compression)) !== 0n)
  const unknownFeatures = incompatible & ~BigInt(Incompatible.known)
  if (unknownFeatures !== 0n) {
    throw unsupportedFeatures(unknownFeatures, findFeatureNames(reader, headerLength, extensionsEnd))
  }
  const features = Number(incompatible)
  if ((features & Incompatible.corrupt) !== 0 && mode.write === true && mode.check !== true) {
    throw blockError('EACCES', 'qcow2: Image is corrupt; cannot be opened read/write')
  }
  const extendedL2 = (features & Incompatible.extendedL2) !== 0
  if (extendedL2 && clusterSize / 32 < 2 ** minClusterBits) {
    throw invalid(`Unsupported subcluster size: ${clusterSize / 32}`)
  }
  const refcountOrder = v3 ? reader.u32(96) : 4
  if (refcountOrder > 6) {
    throw invalid('Reference count entry width too large; may not exceed 64 bits')
  }

  const refcountTableClusters = reader.u32(56)
  if (refcountTableClusters === 0 && mode.check !== true) {
    throw invalid('Image does not contain a reference count table')
  }
  const refcountTableOffset = tableOffset(
    'Reference count table',
    reader.u64(48),
    refcountTableClusters,
    clusterSize,
    maxRefcountTableBytes,
    clusterSize,
  )
  const snapshotCount = reader.u32(60)
  if (mode.check !== true) {
    tableOffset(
      'Snapshot table',
      reader.u64(64),
      snapshotCount,
      snapshotHeaderBytes,
      snapshotHeaderBytes * maxSnapshots,
      clusterSize,
    )
  }
  const l1Size = reader.u32(36)
  const l1TableOffset = tableOffset(
    'Active L1 table',
    reader.u64(40),
    l1Size,
    tableEntryBytes,
    maxL1Bytes,
    clusterSize,
  )
  const size = reader.u64(24)
  const l1Needed = l1EntriesFor(size, clusterBits, extendedL2 ? 16 : tableEntryBytes)
  if (l1Needed > 0x7fffffffn) {
    throw blockError('EFBIG', 'Image is too big')
  }
  if (BigInt(l1Size) < l1Needed) {
    throw invalid('L1 table is too small')
  }
  if (l1Size > 0 && l1TableOffset + l1Size * tableEntryBytes > maxFileOffset) {
    throw errnoError('EIO', 'Could not read L1 table')
  }
  const cryptMethod = reader.u32(32)
  if (cryptMethod > CryptMethod.luks) {
    throw invalid(`Unsupported encryption method ${cryptMethod | 0}`)
  }

  if (
    refcountTableClusters > 0 &&
    refcountTableOffset + refcountTableClusters * clusterSize > maxFileOffset
  ) {
    throw errnoError('EIO', 'Could not initialize refcount handling')
  }

  const header: Qcow2Header = {
    version,
    backingFile: undefined,
    backingFileOffset: nameOffset,
    backingFileBytes: undefined,
    clusterBits,
    clusterSize,
    size: Number(size - (size % 512n)),
    cryptMethod,
    l1Size,
    l1TableOffset,
    l1VmStateIndex: Number(l1Needed),
    refcountTableOffset,
    refcountTableClusters,
    snapshotCount,
    snapshotsOffset: Number(reader.u64(64)),
    incompatible: features,
    compatible: v3 ? reader.u32(84) : 0,
    compatibleHigh: v3 ? reader.u32(80) : 0,
    autoclear: v3 ? reader.u32(92) : 0,
    autoclearHigh: v3 ? reader.u32(88) : 0,
    refcountOrder,
    headerLength,
    compressionType,
    unknownFields: reader.slice(headerLengthV3, Math.max(0, headerLength - headerLengthV3)),
    backingFormat: undefined,
    featureNames: [],
    dataFile: undefined,
    crypto: undefined,
    bitmaps: undefined,
    unknownExtensions: [],
    warnings: [],
  }
  readExtensions(reader, headerLength, extensionsEnd, (magic, at, length) => {
    interpretExtension(header, reader, magic, at, length)
  })
  const dataFileMissing = (header.incompatible & Incompatible.dataFile) === 0 && mode.noIo !== true
  if (dataFileMissing && (header.autoclear & Autoclear.dataFileRaw) !== 0) {
    throw invalid('data-file-raw requires a data file')
  }
  if (nameOffset !== 0) {
    const length = reader.u32(16)
    if (length > Math.min(maxBackingFileBytes, clusterSize - nameOffset)) {
      throw invalid('Backing file name too long')
    }
    const name = reader.text(nameOffset, length)
    header.backingFile = name.text
    header.backingFileBytes = isUtf8(name.bytes) ? undefined : name.bytes
  }
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw blockError('EFBIG', 'Could not refresh total sector count: File too large')
  }
  return header
}

function isUtf8(bytes: Uint8Array): boolean {
  try {
    new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    return true
  } catch {
    return false
  }
}

function checkCompressionType(type: number, featureBit: boolean): void {
  if (type !== CompressionType.zlib && type !== CompressionType.zstd) {
    throw blockError('ENOTSUP', `qcow2: unknown compression type: ${type}`)
  }
  if (featureBit !== (type !== CompressionType.zlib)) {
    throw invalid(`qcow2: Compression type incompatible feature bit must ${featureBit ? 'not ' : ''}be set`)
  }
}

/** Calls `take` for each extension up to the end mark, with its data's place and length in bytes. */
function readExtensions(
  reader: ByteReader,
  start: number,
  end: number,
  take: (magic: number, at: number, length: number) => void,
): void {
  let at = start
  while (at < end) {
    const magic = reader.u32(at)
    const length = reader.u32(at + 4)
    at += 8
    if (at > end || length > end - at) {
      throw invalid('Header extension too large')
    }
    if (magic === ExtensionMagic.end) {
      return
    }
    take(magic, at, length)
    at += Math.ceil(length / 8) * 8
  }
}

function interpretExtension(
  header: Qcow2Header,
  reader: ByteReader,
  magic: number,
  at: number,
  length: number,
): void {
  switch (magic) {
    case ExtensionMagic.backingFormat:
      if (length >= 16) {
        throw invalid(`ERROR: ext_backing_format: len=${length} too large (>=16)`)
      }
      header.backingFormat = reader.text(at, length).text
      break
    case ExtensionMagic.featureTable:
      header.featureNames = featureNames(reader, at, length)
      break
    case ExtensionMagic.cryptoHeader:
      header.crypto = cryptoExtension(header, reader, at, length)
      break
    case ExtensionMagic.bitmaps:
      header.bitmaps = bitmapsExtension(header, reader, at, length) ?? header.bitmaps
      break
    case ExtensionMagic.dataFile:
      header.dataFile = reader.text(at, length).text
      break
    default:
      header.unknownExtensions.push({ magic, data: reader.slice(at, length) })
  }
}

function cryptoExtension(
  header: Qcow2Header,
  reader: ByteReader,
  at: number,
  length: number,
): CryptoExtension {
  if (header.cryptMethod !== CryptMethod.luks) {
    throw invalid('CRYPTO header extension only expected with LUKS encryption method')
  }
  if (length !== 16) {
    throw invalid(`CRYPTO header extension size ${length}, but expected size 16`)
  }
  const offset = reader.u64(at)
  if (offset % BigInt(header.clusterSize) !== 0n) {
    throw invalid(
      `Encryption header offset '${offset}' is not a multiple of cluster size '${header.clusterSize}'`,
    )
  }
  return { offset: Number(offset), length: Number(reader.u64(at + 8)) }
}

function bitmapsExtension(
  header: Qcow2Header,
  reader: ByteReader,
  at: number,
  length: number,
): BitmapsExtension | undefined {
  if (length !== 24) {
    throw invalid('bitmaps_ext: Invalid extension length')
  }
  if ((header.autoclear & Autoclear.bitmaps) === 0) {
    const cause =
      header.version < 3
        ? 'This qcow2 v2 image contains bitmaps, but they may have been modified by a program without ' +
          'persistent bitmap support; so now they must all be considered inconsistent'
        : 'a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent'
    header.warnings.push(
      `${cause}\nSome clusters may be leaked, run 'qemu-img check -r' on the image file to fix.`,
    )
    return undefined
  }
  if (reader.u32(at + 4) !== 0) {
    throw invalid('bitmaps_ext: Reserved field is not zero')
  }
  const count = reader.u32(at)
  if (count > maxBitmaps) {
    throw invalid(
      `bitmaps_ext: Image has ${count} bitmaps, exceeding the QEMU supported maximum of ${maxBitmaps}`,
    )
  }
  if (count === 0) {
    throw invalid('found bitmaps extension with zero bitmaps')
  }
  const directoryOffset = reader.u64(at + 16)
  if (directoryOffset % BigInt(header.clusterSize) !== 0n) {
    throw invalid('bitmaps_ext: invalid bitmap directory offset')
  }
  const directorySize = reader.u64(at + 8)
  if (directorySize > BigInt(maxBitmapDirectoryBytes)) {
    throw invalid(
      `bitmaps_ext: bitmap directory size (${directorySize}) exceeds the maximum supported size ` +
        `(${maxBitmapDirectoryBytes})`,
    )
  }
  return { count, directorySize: Number(directorySize), directoryOffset: Number(directoryOffset) }
}

const featureNameBytes = 48

function featureNames(reader: ByteReader, at: number, length: number): FeatureName[] {
  const names: FeatureName[] = []
  for (let i = 0; i < length; i += featureNameBytes) {
    const name = reader.text(at + i + 2, Math.min(46, Math.max(0, length - i - 2))).text
    if (name === '') {
      break
    }
    names.push({ type: reader.u8(at + i), bit: reader.u8(at + i + 1), name })
  }
  return names
}

/** The feature name table of a header that is refused anyway: other extensions' errors do not matter. */
function findFeatureNames(reader: ByteReader, start: number, end: number): FeatureName[] {
  let names: FeatureName[] = []
  try {
    readExtensions(reader, start, end, (magic, at, length) => {
      if (magic === ExtensionMagic.featureTable) {
        names = featureNames(reader, at, length)
      }
    })
  } catch {
    // What was found before the broken extension still helps the user.
  }
  return names
}

function unsupportedFeatures(mask: bigint, names: readonly FeatureName[]): BlockError {
  const found: string[] = []
  let left = mask
  for (const { type, bit, name } of names) {
    const flag = 1n << BigInt(bit & 63)
    if (type === 0 && (left & flag) !== 0n) {
      found.push(name)
      left &= ~flag
    }
  }
  if (left !== 0n) {
    found.push(`Unknown incompatible feature: ${left.toString(16)}`)
  }
  return blockError('ENOTSUP', `Unsupported qcow2 feature(s): ${found.join(', ')}`)
}

/**
 * The error for a valid image that uses what this driver cannot do, or undefined.
 * A dirty image (lazy refcounts not written back) can only be read. Where only metadata is asked for,
 * an image without guest data in this file or with another kind of mapping is all right.
 */
export function describeUnsupported(header: Qcow2Header, mode: HeaderMode = {}): BlockError | undefined {
  const features: string[] = []
  if ((header.incompatible & Incompatible.dataFile) !== 0 && mode.noIo !== true) {
    features.push('external data file')
  }
  if ((header.incompatible & Incompatible.extendedL2) !== 0 && mode.noIo !== true) {
    features.push('extended L2 entries')
  }
  if ((header.incompatible & Incompatible.dirty) !== 0 && mode.write === true && mode.check !== true) {
    features.push('dirty bit (refcounts must be repaired before writing)')
  }
  if (header.cryptMethod !== CryptMethod.none) {
    features.push(`encryption (${header.cryptMethod === CryptMethod.luks ? 'luks' : 'aes'})`)
  }
  return features.length === 0
    ? undefined
    : blockError('ENOTSUP', `Unsupported qcow2 feature(s): ${features.join(', ')}`)
}

/**
 * Clears the autoclear bits of features that a write by this driver invalidates, which are all:
 * persistent bitmaps are not kept up to date here. Their extension stays, marked inconsistent by
 * the cleared bit. Returns whether the header changed and must be written.
 */
export function clearAutoclear(header: Qcow2Header): boolean {
  const changed = header.autoclear !== 0 || header.autoclearHigh !== 0
  header.autoclear = 0
  header.autoclearHigh = 0
  return changed
}

const knownFeatures: readonly FeatureName[] = [
  { type: 0, bit: 0, name: 'dirty bit' },
  { type: 0, bit: 1, name: 'corrupt bit' },
  { type: 0, bit: 2, name: 'external data file' },
  { type: 0, bit: 3, name: 'compression type' },
  { type: 0, bit: 4, name: 'extended L2 entries' },
  { type: 1, bit: 0, name: 'lazy refcounts' },
  { type: 2, bit: 0, name: 'bitmaps' },
  { type: 2, bit: 1, name: 'raw external data' },
]

function featureTable(): Uint8Array {
  const table = new Uint8Array(knownFeatures.length * featureNameBytes)
  knownFeatures.forEach(({ type, bit, name }, index) => {
    const at = index * featureNameBytes
    table[at] = type
    table[at + 1] = bit
    table.set(new TextEncoder().encode(name), at + 2)
  })
  return table
}

class HeaderWriter {
  readonly bytes: Uint8Array
  readonly #view: DataView
  at = 0

  constructor(length: number) {
    this.bytes = new Uint8Array(length)
    this.#view = new DataView(this.bytes.buffer)
  }

  u32(value: number): void {
    this.#view.setUint32(this.at, value)
    this.at += 4
  }

  u64(value: number): void {
    this.u32(Math.floor(value / 0x100000000))
    this.u32(value % 0x100000000)
  }

  raw(data: Uint8Array): void {
    if (data.length > this.bytes.length - this.at) {
      throw blockError('ENOSPC', 'No space left on device')
    }
    this.bytes.set(data, this.at)
    this.at += data.length
  }

  extension(magic: number, data: Uint8Array): void {
    const padded = Math.ceil(data.length / 8) * 8
    if (8 + padded > this.bytes.length - this.at) {
      throw blockError('ENOSPC', 'No space left on device')
    }
    this.u32(magic)
    this.u32(data.length)
    this.bytes.set(data, this.at)
    this.at += padded
  }
}

function u64Bytes(...values: number[]): Uint8Array {
  const writer = new HeaderWriter(values.length * 8)
  for (const value of values) {
    writer.u64(value)
  }
  return writer.bytes
}

/**
 * The first cluster of the image as QEMU 7.2 writes it: header, extensions, backing file name.
 * Feature names are written anew; they are left out for clusters up to 4 KiB, where names of backing
 * files need the room.
 *
 * @returns `clusterSize` bytes owned by the caller
 * @throws ENOSPC if it does not fit the cluster
 */
export function serializeHeader(header: Qcow2Header): Uint8Array {
  const writer = new HeaderWriter(header.clusterSize)
  writer.u32(qcow2Magic)
  writer.u32(header.version)
  writer.u64(0)
  writer.u32(0)
  writer.u32(header.clusterBits)
  writer.u64(header.size)
  writer.u32(header.cryptMethod)
  writer.u32(header.l1Size)
  writer.u64(header.l1TableOffset)
  writer.u64(header.refcountTableOffset)
  writer.u32(header.refcountTableClusters)
  writer.u32(header.snapshotCount)
  writer.u64(header.snapshotsOffset)
  if (header.version === 3) {
    writer.u64(header.incompatible)
    writer.u32(header.compatibleHigh)
    writer.u32(header.compatible)
    writer.u32(header.autoclearHigh)
    writer.u32(header.autoclear)
    writer.u32(header.refcountOrder)
    writer.u32(headerLengthV3 + header.unknownFields.length)
    writer.raw(Uint8Array.of(header.compressionType, 0, 0, 0, 0, 0, 0, 0))
    writer.raw(header.unknownFields)
  }
  writeExtensions(writer, header)
  if (header.backingFile !== undefined) {
    const name = backingFileBytes(header, header.backingFile)
    const at = writer.at
    writer.raw(name)
    writer.at = 8
    writer.u64(at)
    writer.u32(name.length)
  }
  return writer.bytes
}

function backingFileBytes(header: Qcow2Header, name: string): Uint8Array {
  const raw = header.backingFileBytes
  return raw !== undefined && new TextDecoder().decode(raw) === name ? raw : new TextEncoder().encode(name)
}

function writeExtensions(writer: HeaderWriter, header: Qcow2Header): void {
  const encoder = new TextEncoder()
  if (header.backingFormat !== undefined) {
    writer.extension(ExtensionMagic.backingFormat, encoder.encode(header.backingFormat))
  }
  if (header.dataFile !== undefined && (header.incompatible & Incompatible.dataFile) !== 0) {
    writer.extension(ExtensionMagic.dataFile, encoder.encode(header.dataFile))
  }
  if (header.crypto !== undefined && header.crypto.offset !== 0) {
    writer.extension(ExtensionMagic.cryptoHeader, u64Bytes(header.crypto.offset, header.crypto.length))
  }
  if (header.version === 3 && header.clusterSize > 4096) {
    writer.extension(ExtensionMagic.featureTable, featureTable())
  }
  if (header.bitmaps !== undefined) {
    const { count, directorySize, directoryOffset } = header.bitmaps
    const data = u64Bytes(0, directorySize, directoryOffset)
    new DataView(data.buffer).setUint32(0, count)
    writer.extension(ExtensionMagic.bitmaps, data)
  }
  for (const { magic, data } of header.unknownExtensions) {
    writer.extension(magic, data)
  }
  writer.extension(ExtensionMagic.end, new Uint8Array(0))
}
