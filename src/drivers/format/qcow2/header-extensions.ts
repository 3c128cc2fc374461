import { type BlockError, blockError } from '../../../errors/index.js'
import type { ByteReader } from './byte-reader.js'
import { Autoclear, CryptMethod, ExtensionMagic, maxBitmapDirectoryBytes, maxBitmaps } from './constants.js'
import type { BitmapsExtension, CryptoExtension, FeatureName, Qcow2Header } from './header.js'

/** EINVAL with this text. */
export function invalidHeader(message: string): BlockError {
  return blockError('EINVAL', message)
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
      throw invalidHeader('Header extension too large')
    }
    if (magic === ExtensionMagic.end) {
      return
    }
    take(magic, at, length)
    at += Math.ceil(length / 8) * 8
  }
}

/** Whether the first `bytes` of an image hold all its extensions, which begin at `start`. */
export function holdsExtensions(reader: ByteReader, bytes: number, start: number, end: number): boolean {
  let at = start
  while (at < end && at + 8 <= bytes) {
    if (reader.u32(at) === ExtensionMagic.end) {
      return true
    }
    at += 8 + Math.ceil(reader.u32(at + 4) / 8) * 8
  }
  return at >= end && at <= bytes
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
        throw invalidHeader(`ERROR: ext_backing_format: len=${length} too large (>=16)`)
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
    throw invalidHeader('CRYPTO header extension only expected with LUKS encryption method')
  }
  if (length !== 16) {
    throw invalidHeader(`CRYPTO header extension size ${length}, but expected size 16`)
  }
  const offset = reader.u64(at)
  if (offset % BigInt(header.clusterSize) !== 0n) {
    throw invalidHeader(
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
    throw invalidHeader('bitmaps_ext: Invalid extension length')
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
    throw invalidHeader('bitmaps_ext: Reserved field is not zero')
  }
  const count = reader.u32(at)
  if (count > maxBitmaps) {
    throw invalidHeader(
      `bitmaps_ext: Image has ${count} bitmaps, exceeding the QEMU supported maximum of ${maxBitmaps}`,
    )
  }
  if (count === 0) {
    throw invalidHeader('found bitmaps extension with zero bitmaps')
  }
  const directoryOffset = reader.u64(at + 16)
  if (directoryOffset % BigInt(header.clusterSize) !== 0n) {
    throw invalidHeader('bitmaps_ext: invalid bitmap directory offset')
  }
  const directorySize = reader.u64(at + 8)
  if (directorySize > BigInt(maxBitmapDirectoryBytes)) {
    throw invalidHeader(
      `bitmaps_ext: bitmap directory size (${directorySize}) exceeds the maximum supported size ` +
        `(${maxBitmapDirectoryBytes})`,
    )
  }
  return { count, directorySize: Number(directorySize), directoryOffset: Number(directoryOffset) }
}

/** Bytes of a line of the feature name table. */
export const featureNameBytes = 48

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

/**
 * Reads the extensions in `[start, end)` into `header`.
 *
 * @throws EINVAL with QEMU's text
 */
export function parseExtensions(header: Qcow2Header, reader: ByteReader, start: number, end: number): void {
  readExtensions(reader, start, end, (magic, at, length) => {
    interpretExtension(header, reader, magic, at, length)
  })
}

/** The feature name table of a header that is refused anyway: other extensions' errors do not matter. */
export function findFeatureNames(reader: ByteReader, start: number, end: number): FeatureName[] {
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

/** The error for the incompatible feature bits in `mask`, by the names the image itself gives them. */
export function unsupportedFeatures(mask: bigint, names: readonly FeatureName[]): BlockError {
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
