import { blockError, errnoError } from '../../../errors/index.js'
import { ByteReader } from './byte-reader.js'
import {
  Autoclear,
  CompressionType,
  CryptMethod,
  extendedEntryBytes,
  headerLengthV2,
  headerLengthV3,
  headerLengthV3Min,
  Incompatible,
  maxBackingFileBytes,
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
import {
  findFeatureNames,
  holdsExtensions,
  invalidHeader,
  parseExtensions,
  unsupportedFeatures,
} from './header-extensions.js'

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

/** Bytes from the start of an image that nearly always hold all of its header. */
export const usualHeaderBytes = 4096

/**
 * How many bytes from the start of the file {@link parseHeader} needs, judged by the first ones, at least 112:
 * no more than these if they hold everything, else one cluster.
 */
export function headerBytesNeeded(head: Uint8Array): number {
  const reader = new ByteReader(head)
  const clusterBits = reader.u32(20)
  if (reader.u32(0) !== qcow2Magic || clusterBits < minClusterBits || clusterBits > maxClusterBits) {
    return headerLengthV3
  }
  const clusterSize = 2 ** clusterBits
  const known = head.length
  if (known >= clusterSize) {
    return clusterSize
  }
  const start = reader.u32(4) === 3 ? reader.u32(100) : headerLengthV2
  const name = reader.u64(8)
  const nameEnd = name === 0n ? 0n : name + BigInt(reader.u32(16))
  const end = name === 0n || name > BigInt(clusterSize) ? clusterSize : Number(name)
  return nameEnd <= BigInt(known) && holdsExtensions(reader, known, start, end) ? known : clusterSize
}

const maxInt64 = (1n << 63n) - 1n

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
    throw invalidHeader(`${name} offset invalid`)
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
 * @param bytes the first cluster of the file, or as much of it as is needed
 *   (see {@link headerBytesNeeded}); missing bytes count as zeroes
 * @throws BlockError with QEMU's text, checks in QEMU's order
 */
export function parseHeader(bytes: Uint8Array, mode: HeaderMode = {}): Qcow2Header {
  const reader = new ByteReader(bytes)
  const frame = parseFrame(reader)
  const features = parseFeatures(reader, frame, mode)
  const tables = parseTables(reader, frame.clusterBits, features.incompatible, mode)
  const v3 = frame.version === 3
  const header: Qcow2Header = {
    version: frame.version,
    backingFile: undefined,
    backingFileOffset: frame.nameOffset,
    backingFileBytes: undefined,
    clusterBits: frame.clusterBits,
    clusterSize: 2 ** frame.clusterBits,
    ...tables,
    ...features,
    compatible: v3 ? reader.u32(84) : 0,
    compatibleHigh: v3 ? reader.u32(80) : 0,
    autoclear: v3 ? reader.u32(92) : 0,
    autoclearHigh: v3 ? reader.u32(88) : 0,
    headerLength: frame.headerLength,
    unknownFields: reader.slice(headerLengthV3, Math.max(0, frame.headerLength - headerLengthV3)),
    backingFormat: undefined,
    featureNames: [],
    dataFile: undefined,
    crypto: undefined,
    bitmaps: undefined,
    unknownExtensions: [],
    warnings: [],
  }
  parseExtensions(header, reader, frame.headerLength, frame.extensionsEnd)
  const dataFileMissing = (header.incompatible & Incompatible.dataFile) === 0 && mode.noIo !== true
  if (dataFileMissing && (header.autoclear & Autoclear.dataFileRaw) !== 0) {
    throw invalidHeader('data-file-raw requires a data file')
  }
  readBackingFile(header, reader)
  if (reader.u64(24) > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw blockError('EFBIG', 'Could not refresh total sector count: File too large')
  }
  return header
}

/** What must be known to read the rest. Offsets and lengths are bytes. */
interface Frame {
  readonly version: 2 | 3
  readonly clusterBits: number
  readonly headerLength: number
  /** Where the backing file name stands; 0 without one. */
  readonly nameOffset: number
  readonly extensionsEnd: number
}

function parseFrame(reader: ByteReader): Frame {
  if (reader.u32(0) !== qcow2Magic) {
    throw invalidHeader('Image is not in qcow2 format')
  }
  const version = reader.u32(4)
  if (version !== 2 && version !== 3) {
    throw blockError('ENOTSUP', `Unsupported qcow2 version ${version}`)
  }
  const clusterBits = reader.u32(20)
  if (clusterBits < minClusterBits || clusterBits > maxClusterBits) {
    throw invalidHeader(`Unsupported cluster size: 2^${clusterBits}`)
  }
  const clusterSize = 2 ** clusterBits
  const headerLength = version === 3 ? reader.u32(100) : headerLengthV2
  if (version === 3 && headerLength < headerLengthV3Min) {
    throw invalidHeader('qcow2 header too short')
  }
  if (headerLength > clusterSize) {
    throw invalidHeader('qcow2 header exceeds cluster size')
  }
  const nameOffset = reader.u64(8)
  if (nameOffset > BigInt(clusterSize)) {
    throw invalidHeader('Invalid backing file offset')
  }
  return {
    version,
    clusterBits,
    headerLength,
    nameOffset: Number(nameOffset),
    extensionsEnd: nameOffset === 0n ? clusterSize : Number(nameOffset),
  }
}

function parseFeatures(reader: ByteReader, frame: Frame, mode: HeaderMode) {
  const { version, headerLength, clusterBits, extensionsEnd } = frame
  const bits = version === 3 ? reader.u64(72) : 0n
  const compressionType = version === 3 && headerLength > 104 ? reader.u8(104) : CompressionType.zlib
  checkCompressionType(compressionType, (bits & BigInt(Incompatible.compression)) !== 0n)
  const unknown = bits & ~BigInt(Incompatible.known)
  if (unknown !== 0n) {
    throw unsupportedFeatures(unknown, findFeatureNames(reader, headerLength, extensionsEnd))
  }
  const incompatible = Number(bits)
  if ((incompatible & Incompatible.corrupt) !== 0 && mode.write === true && mode.check !== true) {
    throw blockError('EACCES', 'qcow2: Image is corrupt; cannot be opened read/write')
  }
  const subclusterSize = 2 ** clusterBits / 32
  if ((incompatible & Incompatible.extendedL2) !== 0 && subclusterSize < 2 ** minClusterBits) {
    throw invalidHeader(`Unsupported subcluster size: ${subclusterSize}`)
  }
  const refcountOrder = version === 3 ? reader.u32(96) : 4
  if (refcountOrder > 6) {
    throw invalidHeader('Reference count entry width too large; may not exceed 64 bits')
  }
  return { incompatible, compressionType, refcountOrder }
}

function parseTables(reader: ByteReader, clusterBits: number, incompatible: number, mode: HeaderMode) {
  const clusterSize = 2 ** clusterBits
  const refcountTableClusters = reader.u32(56)
  if (refcountTableClusters === 0 && mode.check !== true) {
    throw invalidHeader('Image does not contain a reference count table')
  }
  const table = (name: string, at: number, entries: number, entryBytes: number, maxBytes: number) =>
    tableOffset(name, reader.u64(at), entries, entryBytes, maxBytes, clusterSize)
  const refcountTableOffset = table(
    'Reference count table',
    48,
    refcountTableClusters,
    clusterSize,
    maxRefcountTableBytes,
  )
  const snapshotCount = reader.u32(60)
  if (mode.check !== true) {
    table('Snapshot table', 64, snapshotCount, snapshotHeaderBytes, snapshotHeaderBytes * maxSnapshots)
  }
  const l1Size = reader.u32(36)
  const l1TableOffset = table('Active L1 table', 40, l1Size, tableEntryBytes, maxL1Bytes)
  const size = reader.u64(24)
  const extendedL2 = (incompatible & Incompatible.extendedL2) !== 0
  const l1Needed = l1EntriesFor(size, clusterBits, extendedL2 ? extendedEntryBytes : tableEntryBytes)
  if (l1Needed > 0x7fffffffn) {
    throw blockError('EFBIG', 'Image is too big')
  }
  if (BigInt(l1Size) < l1Needed) {
    throw invalidHeader('L1 table is too small')
  }
  if (!isReadable(l1TableOffset, l1Size * tableEntryBytes)) {
    throw errnoError('EIO', 'Could not read L1 table')
  }
  const cryptMethod = reader.u32(32)
  if (cryptMethod > CryptMethod.luks) {
    throw invalidHeader(`Unsupported encryption method ${cryptMethod | 0}`)
  }
  if (!isReadable(refcountTableOffset, refcountTableClusters * clusterSize)) {
    throw errnoError('EIO', 'Could not initialize refcount handling')
  }
  return {
    size: Number(size - (size % 512n)),
    cryptMethod,
    l1Size,
    l1TableOffset,
    l1VmStateIndex: Number(l1Needed),
    refcountTableOffset,
    refcountTableClusters,
    snapshotCount,
    snapshotsOffset: Number(reader.u64(64)),
  }
}

/** Whether QEMU could ask a file for these bytes. */
function isReadable(offset: number, bytes: number): boolean {
  return bytes === 0 || offset + bytes <= maxFileOffset
}

function readBackingFile(header: Qcow2Header, reader: ByteReader): void {
  const at = header.backingFileOffset
  if (at === 0) {
    return
  }
  const length = reader.u32(16)
  if (length > Math.min(maxBackingFileBytes, header.clusterSize - at)) {
    throw invalidHeader('Backing file name too long')
  }
  const name = reader.text(at, length)
  header.backingFile = name.text
  header.backingFileBytes = isUtf8(name.bytes) ? undefined : name.bytes
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
    throw invalidHeader(
      `qcow2: Compression type incompatible feature bit must ${featureBit ? 'not ' : ''}be set`,
    )
  }
}

/**
 * Clears the autoclear bits of features that this driver does not know: a write invalidates them.
 * Returns whether the header changed and must be written.
 */
export function clearAutoclear(header: Qcow2Header): boolean {
  const known = header.autoclear & Autoclear.known
  const changed = header.autoclear !== known || header.autoclearHigh !== 0
  header.autoclear = known
  header.autoclearHigh = 0
  return changed
}

export { serializeHeader } from './header-write.js'
