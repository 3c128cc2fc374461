import { blockError } from '../../../errors/index.js'
import { ExtensionMagic, headerLengthV3, Incompatible, qcow2Magic } from './constants.js'
import type { FeatureName, Qcow2Header } from './header.js'
import { featureNameBytes } from './header-extensions.js'

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
