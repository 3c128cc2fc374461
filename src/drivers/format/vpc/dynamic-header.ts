import { readU32BE, readU64BE, writeU32BE, writeU64BE } from '../../../bytes/index.js'
import { vhdChecksum } from './footer.js'

/** The header of a dynamic or differencing disk: 1024 bytes, of which the first sector says where things are. */

export const dynamicHeaderBytes = 1024

/** Block size of new disks, bytes. */
export const defaultBlockBytes = 2 << 20

const cookie = [0x63, 0x78, 0x73, 0x70, 0x61, 0x72, 0x73, 0x65]

const At = {
  dataOffset: 8,
  tableOffset: 16,
  version: 24,
  maxEntries: 28,
  blockSize: 32,
  checksum: 36,
  parentUuid: 40,
  parentTimestamp: 56,
  parentName: 64,
  locators: 576,
} as const

/** Bytes of the parent's name in the header, UTF-16. */
const parentNameBytes = 512
const locatorBytes = 24
export const locatorCount = 8

/** One of eight places that tell where the parent is, each for another platform. */
export interface ParentLocator {
  /** Four characters: `W2ru`, `W2ku`, `MacX`, …; undefined if the slot is free. */
  readonly platform: string | undefined
  /** Bytes of the name. */
  readonly length: number
  /** Place of the name in the file, bytes; `Infinity` for nonsense. */
  readonly offset: number
}

/** A view of the 1024 bytes. Setters leave the checksum alone: {@link DynamicHeader.seal}. */
export class DynamicHeader {
  readonly bytes: Uint8Array

  /** @param bytes 1024 bytes, which the header keeps */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  get hasCookie(): boolean {
    return cookie.every((byte, i) => this.bytes[i] === byte)
  }

  get checksumIsRight(): boolean {
    return readU32BE(this.bytes, At.checksum) === vhdChecksum(this.bytes, At.checksum)
  }

  /** Where the block allocation table stands, bytes; `Infinity` above 2^53-1. */
  get tableOffset(): number {
    return readU64BE(this.bytes, At.tableOffset)
  }

  set tableOffset(offset: number) {
    writeU64BE(this.bytes, At.tableOffset, offset)
  }

  get maxEntries(): number {
    return readU32BE(this.bytes, At.maxEntries)
  }

  set maxEntries(entries: number) {
    writeU32BE(this.bytes, At.maxEntries, entries)
  }

  /** Bytes. */
  get blockSize(): number {
    return readU32BE(this.bytes, At.blockSize)
  }

  get parentUuid(): Uint8Array {
    return this.bytes.subarray(At.parentUuid, At.parentUuid + 16)
  }

  /** Seconds since 2000; 0 if not known. */
  get parentTimestamp(): number {
    return readU32BE(this.bytes, At.parentTimestamp)
  }

  /** The parent's file name without folders, as the header has it. */
  get parentName(): string {
    const end = At.parentName + parentNameBytes
    let name = ''
    for (let at = At.parentName; at < end; at += 2) {
      const unit = ((this.bytes[at] ?? 0) << 8) | (this.bytes[at + 1] ?? 0)
      if (unit === 0) {
        break
      }
      name += String.fromCharCode(unit)
    }
    return name
  }

  get locators(): ParentLocator[] {
    return Array.from({ length: locatorCount }, (_, index) => {
      const at = At.locators + index * locatorBytes
      const code = String.fromCharCode(...this.bytes.subarray(at, at + 4))
      return {
        platform: code === '\0\0\0\0' ? undefined : code,
        length: readU32BE(this.bytes, at + 8),
        offset: readU64BE(this.bytes, at + 16),
      }
    })
  }

  /** @param timestamp when the parent was last written, seconds since 2000 */
  setParent(uuid: Uint8Array, timestamp: number, name: string): void {
    this.bytes.set(uuid, At.parentUuid)
    writeU32BE(this.bytes, At.parentTimestamp, timestamp)
    this.bytes.fill(0, At.parentName, At.parentName + parentNameBytes)
    // A terminating zero must be left.
    for (let i = 0; i < Math.min(name.length, parentNameBytes / 2 - 1); i++) {
      const unit = name.charCodeAt(i)
      this.bytes[At.parentName + i * 2] = unit >>> 8
      this.bytes[At.parentName + i * 2 + 1] = unit
    }
  }

  /** @param space bytes reserved at `offset`, whole sectors */
  setLocator(index: number, platform: string, space: number, length: number, offset: number): void {
    const at = At.locators + index * locatorBytes
    this.bytes.fill(0, at, at + locatorBytes)
    for (let i = 0; i < 4; i++) {
      this.bytes[at + i] = platform.charCodeAt(i)
    }
    writeU32BE(this.bytes, at + 4, space / 512)
    writeU32BE(this.bytes, at + 8, length)
    writeU64BE(this.bytes, at + 16, offset)
  }

  clearLocators(): void {
    this.bytes.fill(0, At.locators, At.locators + locatorCount * locatorBytes)
  }

  seal(): this {
    writeU32BE(this.bytes, At.checksum, vhdChecksum(this.bytes, At.checksum))
    return this
  }
}

export function makeDynamicHeader(tableOffset: number, entries: number, blockSize: number): DynamicHeader {
  const bytes = new Uint8Array(dynamicHeaderBytes)
  bytes.set(cookie)
  bytes.fill(0xff, At.dataOffset, At.dataOffset + 8)
  writeU32BE(bytes, At.version, 0x10000)
  writeU32BE(bytes, At.blockSize, blockSize)
  const header = new DynamicHeader(bytes)
  header.tableOffset = tableOffset
  header.maxEntries = entries
  return header.seal()
}
