import { blockError } from '../../../errors/index.js'

/** The format of Linux's dm-log-writes; all numbers little-endian. */

/** Bytes of the superblock and of an entry, each at the start of a log sector. */
export const superblockBytes = 28
export const entryBytes = 32

/** `jsfwshr` as a number: written least significant byte first. */
const magicLow = 0x77736872
const magicHigh = 0x006a7366
const version = 1

export const EntryFlags = { flush: 1, fua: 2, discard: 4, mark: 8 } as const

/** Bytes a log sector may have: a power of two that holds an entry, below 16 MiB. */
export function isSectorSizeValid(bytes: number): boolean {
  return (
    bytes >= Math.max(superblockBytes, entryBytes) && bytes < 1 << 24 && Number.isInteger(Math.log2(bytes))
  )
}

export interface Superblock {
  readonly entries: number
  /** Bytes. */
  readonly sectorSize: number
}

function writeUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 0x100000000, true)
  view.setUint32(at + 4, Math.floor(value / 0x100000000), true)
}

function readUint64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x100000000
}

/** One log sector with the superblock. */
export function encodeSuperblock({ entries, sectorSize }: Superblock): Uint8Array {
  const bytes = new Uint8Array(sectorSize)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, magicLow, true)
  view.setUint32(4, magicHigh, true)
  writeUint64(view, 8, version)
  writeUint64(view, 16, entries)
  view.setUint32(24, sectorSize, true)
  return bytes
}

/**
 * Reads a superblock from at least {@link superblockBytes} bytes.
 *
 * @throws BlockError EINVAL with QEMU's text
 */
export function decodeSuperblock(bytes: Uint8Array): Superblock {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(0, true) !== magicLow || view.getUint32(4, true) !== magicHigh) {
    throw blockError('EINVAL', 'Invalid log superblock magic')
  }
  const found = view.getBigUint64(8, true)
  if (found !== BigInt(version)) {
    throw blockError('EINVAL', `Unsupported log version ${found}`)
  }
  const sectorSize = view.getUint32(24, true)
  if (!isSectorSizeValid(sectorSize)) {
    throw blockError('EINVAL', `Invalid log sector size ${sectorSize}`)
  }
  return { entries: readUint64(view, 16), sectorSize }
}

export interface Entry {
  /** In log sectors. */
  readonly sector: number
  readonly sectors: number
  /** `EntryFlags` bits. */
  readonly flags: number
}

/** Writes an entry to the start of `bytes`. */
export function encodeEntry(entry: Entry, bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  writeUint64(view, 0, entry.sector)
  writeUint64(view, 8, entry.sectors)
  writeUint64(view, 16, entry.flags)
  writeUint64(view, 24, 0)
}

/** Reads an entry; numbers beyond 2^53 come back rounded, for the caller to refuse. */
export function decodeEntry(bytes: Uint8Array): Entry & { readonly dataBytes: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return {
    sector: readUint64(view, 0),
    sectors: readUint64(view, 8),
    flags: readUint64(view, 16),
    dataBytes: readUint64(view, 24),
  }
}
