import { readU32LE } from '../../bytes/index.js'
import { blockError, ioError } from '../../errors/index.js'
import { crc32 } from './checksums.js'

/** Bytes of a stream's header, and of its footer. */
export const streamHeaderBytes = 12
/** The largest header of a block. */
export const maxBlockHeader = 1024

const headerMagic = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]
const footerMagic = [0x59, 0x5a]
const lzma2Filter = 0x21

function corrupt(): never {
  throw ioError('EIO')
}

function startsWith(bytes: Uint8Array, at: number, magic: readonly number[]): boolean {
  return magic.every((byte, i) => bytes[at + i] === byte)
}

/** Whether `bytes` start with the magic number of an xz stream. */
export function isXz(bytes: Uint8Array): boolean {
  return startsWith(bytes, 0, headerMagic)
}

/** Bytes that a check of each kind takes. */
export function checkBytes(kind: number): number {
  return kind === 0 ? 0 : 4 << Math.floor((kind - 1) / 3)
}

/** The kind of checks of the stream whose header is at `at`. @throws BlockError EIO */
export function parseStreamHeader(bytes: Uint8Array, at: number): number {
  const flags = bytes[at + 7] ?? 0
  if (
    at + streamHeaderBytes > bytes.length ||
    !startsWith(bytes, at, headerMagic) ||
    bytes[at + 6] !== 0 ||
    flags > 15 ||
    readU32LE(bytes, at + 8) !== crc32(bytes, at + 6, at + 8)
  ) {
    corrupt()
  }
  return flags
}

/** What the footer at `at` says: bytes of the index before it, and the kind of checks. @throws BlockError EIO */
export function parseStreamFooter(bytes: Uint8Array, at: number): { indexBytes: number; check: number } {
  const flags = bytes[at + 9] ?? 0
  if (
    at + streamHeaderBytes > bytes.length ||
    !startsWith(bytes, at + 10, footerMagic) ||
    bytes[at + 8] !== 0 ||
    flags > 15 ||
    readU32LE(bytes, at) !== crc32(bytes, at + 4, at + 10)
  ) {
    corrupt()
  }
  return { indexBytes: (readU32LE(bytes, at + 4) + 1) * 4, check: flags }
}

/** Reads a number of variable length; `at` moves behind it. Numbers above 2^53 are refused. */
export function readVarint(bytes: Uint8Array, place: { at: number }, end: number): number {
  let value = 0
  for (let i = 0; i < 8; i++) {
    if (place.at >= end) {
      corrupt()
    }
    const byte = bytes[place.at++] as number
    value += (byte & 0x7f) * 2 ** (7 * i)
    if (byte < 0x80) {
      if ((byte === 0 && i > 0) || !Number.isSafeInteger(value)) {
        corrupt()
      }
      return value
    }
  }
  return corrupt()
}

export interface XzBlockHeader {
  /** Bytes of the header itself. */
  readonly bytes: number
  /** Bytes that the dictionary may need, from 4 KiB on. */
  readonly dictionaryBytes: number
  /** Sizes where the header tells. */
  readonly compressed: number | undefined
  readonly uncompressed: number | undefined
}

/**
 * The block header at `at`.
 *
 * @throws BlockError EIO if it is corrupt, ENOTSUP for filters other than LZMA2
 */
export function parseBlockHeader(bytes: Uint8Array, at: number): XzBlockHeader {
  const size = ((bytes[at] ?? 0) + 1) * 4
  if (
    size === 4 ||
    at + size > bytes.length ||
    readU32LE(bytes, at + size - 4) !== crc32(bytes, at, at + size - 4)
  ) {
    corrupt()
  }
  const end = at + size - 4
  const flags = bytes[at + 1] as number
  if ((flags & 0x3c) !== 0) {
    corrupt()
  }
  const place = { at: at + 2 }
  const compressed = (flags & 0x40) !== 0 ? readVarint(bytes, place, end) : undefined
  const uncompressed = (flags & 0x80) !== 0 ? readVarint(bytes, place, end) : undefined
  const filter = readVarint(bytes, place, end)
  if ((flags & 3) !== 0 || filter !== lzma2Filter) {
    throw blockError('ENOTSUP', 'xz filters other than LZMA2 are not supported')
  }
  if (readVarint(bytes, place, end) !== 1 || place.at >= end) {
    corrupt()
  }
  const exponent = bytes[place.at++] as number
  if (exponent > 40 || bytes.subarray(place.at, end).some((byte) => byte !== 0)) {
    corrupt()
  }
  const dictionaryBytes = exponent === 40 ? 0xffff_ffff : (2 | (exponent & 1)) * 2 ** ((exponent >> 1) + 11)
  return { bytes: size, dictionaryBytes, compressed, uncompressed }
}

/** A block as the index lists it: bytes with its header and check, but without padding; and decoded. */
export interface XzIndexRecord {
  readonly unpadded: number
  readonly uncompressed: number
}

/**
 * Reads the index in `bytes`, which holds nothing else.
 *
 * @param maxRecords more are refused
 * @throws BlockError EIO
 */
export function parseIndex(bytes: Uint8Array, maxRecords: number): XzIndexRecord[] {
  const end = bytes.length - 4
  if (end < 2 || bytes[0] !== 0 || readU32LE(bytes, end) !== crc32(bytes, 0, end)) {
    corrupt()
  }
  const place = { at: 1 }
  const count = readVarint(bytes, place, end)
  if (count > Math.min(maxRecords, bytes.length)) {
    corrupt()
  }
  const records: XzIndexRecord[] = []
  for (let i = 0; i < count; i++) {
    const unpadded = readVarint(bytes, place, end)
    const uncompressed = readVarint(bytes, place, end)
    if (unpadded < 5) {
      corrupt()
    }
    records.push({ unpadded, uncompressed })
  }
  if (end - place.at > 3 || bytes.subarray(place.at, end).some((byte) => byte !== 0)) {
    corrupt()
  }
  return records
}
