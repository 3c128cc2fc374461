import { readU32BE, readU64BE, writeU32BE, writeU64BE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import { maxLength } from '../../../io/index.js'

/** `QFI` and 0xfb, as in qcow2. */
export const magic = 0x514649fb
/** Bytes of the header. */
export const headerBytes = 48
/** The guest's sector, in which data is enciphered. Bytes. */
export const sectorBytes = 512
export const maxBackingNameBytes = 1023
/** Bytes of the largest first-level table that is taken into memory: 16 TiB of disk with QEMU's defaults. */
export const maxL1Bytes = 64 << 20
/** QEMU's own limit: entries of the first-level table. */
const qemuMaxL1Entries = 0x0fffffff

const at = {
  magic: 0,
  version: 4,
  backingOffset: 8,
  backingBytes: 16,
  size: 24,
  clusterBits: 32,
  l2Bits: 33,
  crypt: 36,
  l1Offset: 40,
} as const

/** What the header says. Sizes and offsets are bytes. */
export interface QcowHeader {
  /** Length of the disk. */
  readonly size: number
  readonly clusterBits: number
  /** log2 of the entries of a second-level table. */
  readonly l2Bits: number
  readonly encrypted: boolean
  readonly l1Offset: number
  /** Place of the backing file's name; 0: none. */
  readonly backingOffset: number
  readonly backingBytes: number
}

/** Guest bytes that one entry of the first-level table stands for. */
export function spanOf({ clusterBits, l2Bits }: Pick<QcowHeader, 'clusterBits' | 'l2Bits'>): number {
  return 2 ** (clusterBits + l2Bits)
}

/** Bytes of the first-level table. */
export function l1BytesOf(header: Pick<QcowHeader, 'clusterBits' | 'l2Bits' | 'size'>): number {
  return Math.ceil(header.size / spanOf(header)) * 8
}

export function makeHeader(header: QcowHeader): Uint8Array {
  const bytes = new Uint8Array(headerBytes)
  writeU32BE(bytes, at.magic, magic)
  writeU32BE(bytes, at.version, 1)
  writeU64BE(bytes, at.backingOffset, header.backingOffset)
  writeU32BE(bytes, at.backingBytes, header.backingBytes)
  writeU64BE(bytes, at.size, header.size)
  bytes[at.clusterBits] = header.clusterBits
  bytes[at.l2Bits] = header.l2Bits
  writeU32BE(bytes, at.crypt, header.encrypted ? 1 : 0)
  writeU64BE(bytes, at.l1Offset, header.l1Offset)
  return bytes
}

function invalid(text: string): Error {
  return blockError('EINVAL', text)
}

/** Reads and checks a header in QEMU's order. @throws BlockError with QEMU's text */
export function parseHeader(bytes: Uint8Array): QcowHeader {
  if (readU32BE(bytes, at.magic) !== magic) {
    throw invalid('Image not in qcow format')
  }
  const version = readU32BE(bytes, at.version)
  if (version !== 1) {
    throw blockError(
      'ENOTSUP',
      `qcow (v1) does not support qcow version ${version}`,
      version === 2 || version === 3 ? { hint: "Try the 'qcow2' driver instead." } : {},
    )
  }
  const size = readU64BE(bytes, at.size)
  if (size <= 1) {
    throw invalid('Image size is too small (must be at least 2 bytes)')
  }
  const clusterBits = bytes[at.clusterBits] as number
  if (clusterBits < 9 || clusterBits > 16) {
    throw invalid('Cluster size must be between 512 and 64k')
  }
  const l2Bits = bytes[at.l2Bits] as number
  if (l2Bits < 6 || l2Bits > 13) {
    throw invalid('L2 table size must be between 512 and 64k')
  }
  const crypt = readU32BE(bytes, at.crypt)
  if (crypt > 1) {
    throw invalid('invalid encryption method in qcow header')
  }
  const header: QcowHeader = {
    size,
    clusterBits,
    l2Bits,
    encrypted: crypt === 1,
    l1Offset: readU64BE(bytes, at.l1Offset),
    backingOffset: readU64BE(bytes, at.backingOffset),
    backingBytes: readU32BE(bytes, at.backingBytes),
  }
  const entries = l1BytesOf(header) / 8
  if (size > maxLength || entries > qemuMaxL1Entries || entries * 8 > maxL1Bytes) {
    throw invalid('Image too large')
  }
  return header
}
