import { readU32LE, readU64LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { crc32c } from './crc32c.js'
import { logSectorBytes, sameBytes } from './layout.js'

/** What a log entry does to the file: 4096 bytes of data somewhere, or zeroes. */
export interface LogWrite {
  /** Bytes, a multiple of 4096. */
  readonly offset: number
  readonly bytes: number
  /** Undefined: zeroes. */
  readonly data: Uint8Array | undefined
}

export interface LogEntry {
  /** Bytes of the entry in the log. */
  readonly length: number
  /** Where the oldest entry stood that still counted, from the start of the log. */
  readonly tail: number
  readonly sequence: number
  /** The file was at least this long when the entry was written. */
  readonly flushedFileOffset: number
  readonly lastFileOffset: number
  readonly writes: readonly LogWrite[]
}

const entrySignature = [0x6c, 0x6f, 0x67, 0x65]
const dataSignature = [0x64, 0x61, 0x74, 0x61]
const descSignature = [0x64, 0x65, 0x73, 0x63]
const zeroSignature = [0x7a, 0x65, 0x72, 0x6f]
const headBytes = 64
const descriptorBytes = 32

/** Most 4096-byte writes in an entry whose descriptors fit into its first sector. */
export const writesPerEntry = 126

function has(bytes: Uint8Array, at: number, signature: readonly number[]): boolean {
  return signature.every((byte, i) => bytes[at + i] === byte)
}

function descriptorSectors(count: number): number {
  return Math.ceil((headBytes + count * descriptorBytes) / logSectorBytes)
}

/** Bytes of the entry that begins with this sector, if it can be one; its contents are not looked at. */
export function entryLength(sector: Uint8Array, logGuid: Uint8Array, logBytes: number): number | undefined {
  if (!has(sector, 0, entrySignature) || !sameBytes(sector.subarray(32, 48), logGuid)) {
    return undefined
  }
  const length = readU32LE(sector, 8)
  return length !== 0 && length % logSectorBytes === 0 && length <= logBytes ? length : undefined
}

/** The entry in `bytes`, which are just as long as it says; undefined if it is not valid. */
export function parseEntry(bytes: Uint8Array): LogEntry | undefined {
  const count = readU32LE(bytes, 24)
  const sequence = readU64LE(bytes, 16)
  const first = descriptorSectors(count) * logSectorBytes
  if (sequence === 0 || first > bytes.length || readU32LE(bytes, 4) !== crc32c(bytes, 4)) {
    return undefined
  }
  const writes: LogWrite[] = []
  let dataAt = first
  for (let i = 0; i < count; i++) {
    const at = headBytes + i * descriptorBytes
    const offset = readU64LE(bytes, at + 16)
    if (readU64LE(bytes, at + 24) !== sequence || !(offset % logSectorBytes === 0)) {
      return undefined
    }
    if (has(bytes, at, zeroSignature)) {
      const length = readU64LE(bytes, at + 8)
      if (!(length % logSectorBytes === 0)) {
        return undefined
      }
      writes.push({ offset, bytes: length, data: undefined })
      continue
    }
    if (!has(bytes, at, descSignature) || dataAt + logSectorBytes > bytes.length) {
      return undefined
    }
    const high = Math.floor(sequence / 0x100000000)
    if (
      !has(bytes, dataAt, dataSignature) ||
      readU32LE(bytes, dataAt + 4) !== high ||
      readU32LE(bytes, dataAt + 4092) !== sequence % 0x100000000
    ) {
      return undefined
    }
    const data = bytes.slice(dataAt, dataAt + logSectorBytes)
    data.set(bytes.subarray(at + 8, at + 16), 0)
    data.set(bytes.subarray(at + 4, at + 8), 4092)
    writes.push({ offset, bytes: logSectorBytes, data })
    dataAt += logSectorBytes
  }
  return {
    length: bytes.length,
    tail: readU32LE(bytes, 12),
    sequence,
    flushedFileOffset: readU64LE(bytes, 48),
    lastFileOffset: readU64LE(bytes, 56),
    writes,
  }
}

export interface NewEntry {
  readonly logGuid: Uint8Array
  readonly sequence: number
  /** From the start of the log. */
  readonly tail: number
  /** Length of the file, bytes. */
  readonly fileBytes: number
  /** At most {@link writesPerEntry}, each of 4096 bytes. */
  readonly writes: readonly { readonly offset: number; readonly data: Uint8Array }[]
}

export function makeEntry(entry: NewEntry): Uint8Array {
  const { writes, sequence } = entry
  const first = descriptorSectors(writes.length) * logSectorBytes
  const bytes = new Uint8Array(first + writes.length * logSectorBytes)
  bytes.set(entrySignature)
  writeU32LE(bytes, 8, bytes.length)
  writeU32LE(bytes, 12, entry.tail)
  writeU64LE(bytes, 16, sequence)
  writeU32LE(bytes, 24, writes.length)
  bytes.set(entry.logGuid, 32)
  writeU64LE(bytes, 48, entry.fileBytes)
  writeU64LE(bytes, 56, entry.fileBytes)
  writes.forEach(({ offset, data }, index) => {
    const at = headBytes + index * descriptorBytes
    bytes.set(descSignature, at)
    bytes.set(data.subarray(4092), at + 4)
    bytes.set(data.subarray(0, 8), at + 8)
    writeU64LE(bytes, at + 16, offset)
    writeU64LE(bytes, at + 24, sequence)
    const sector = first + index * logSectorBytes
    bytes.set(data, sector)
    bytes.set(dataSignature, sector)
    writeU32LE(bytes, sector + 4, Math.floor(sequence / 0x100000000))
    writeU32LE(bytes, sector + 4092, sequence % 0x100000000)
  })
  writeU32LE(bytes, 4, crc32c(bytes, 4))
  return bytes
}
