import { readU16LE, readU32LE, readU64LE, writeU16LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { crc32c } from './crc32c.js'
import { headerBytes } from './layout.js'

/** One of the two headers; the one with the greater sequence number counts. */
export interface VhdxHeader {
  /** `Infinity` above 2^53-1. */
  sequence: number
  fileWriteGuid: Uint8Array
  dataWriteGuid: Uint8Array
  /** All zeroes: the log is empty. */
  logGuid: Uint8Array
  logVersion: number
  version: number
  logLength: number
  logOffset: number
}

/** The header in these 4096 bytes; undefined if they hold none. */
export function parseHeader(bytes: Uint8Array): VhdxHeader | undefined {
  const isHeader = bytes[0] === 0x68 && bytes[1] === 0x65 && bytes[2] === 0x61 && bytes[3] === 0x64
  if (!isHeader || readU32LE(bytes, 4) !== crc32c(bytes, 4) || readU16LE(bytes, 66) !== 1) {
    return undefined
  }
  return {
    sequence: readU64LE(bytes, 8),
    fileWriteGuid: bytes.slice(16, 32),
    dataWriteGuid: bytes.slice(32, 48),
    logGuid: bytes.slice(48, 64),
    logVersion: readU16LE(bytes, 64),
    version: 1,
    logLength: readU32LE(bytes, 68),
    logOffset: readU64LE(bytes, 72),
  }
}

export function serializeHeader(header: VhdxHeader): Uint8Array {
  const bytes = new Uint8Array(headerBytes)
  bytes.set([0x68, 0x65, 0x61, 0x64])
  writeU64LE(bytes, 8, header.sequence)
  bytes.set(header.fileWriteGuid, 16)
  bytes.set(header.dataWriteGuid, 32)
  bytes.set(header.logGuid, 48)
  writeU16LE(bytes, 64, header.logVersion)
  writeU16LE(bytes, 66, header.version)
  writeU32LE(bytes, 68, header.logLength)
  writeU64LE(bytes, 72, header.logOffset)
  writeU32LE(bytes, 4, crc32c(bytes, 4))
  return bytes
}
