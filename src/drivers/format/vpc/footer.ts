import { readU16BE, readU32BE, readU64BE, writeU16BE, writeU32BE, writeU64BE } from '../../../bytes/index.js'
import { type Geometry, geometrySectors, maxGeometrySectors, sectorBytes } from './geometry.js'

/** The hard disk footer: 512 bytes at the end of every VHD, and a copy at the start unless it is fixed. */

export const footerBytes = 512

export const DiskType = { fixed: 2, dynamic: 3, differencing: 4 } as const

/** Seconds from 1970 to 2000, from when VHDs count. */
export const timestampBase = 946684800

/** Value of an offset that points nowhere. */
export const noOffsetHalf = 0xffffffff

const cookie = [0x63, 0x6f, 0x6e, 0x65, 0x63, 0x74, 0x69, 0x78]

/** Places of the fields. */
const At = {
  features: 8,
  version: 12,
  dataOffset: 16,
  timestamp: 24,
  creator: 28,
  creatorVersion: 32,
  creatorHost: 36,
  originalSize: 40,
  currentSize: 48,
  cylinders: 56,
  heads: 58,
  sectors: 59,
  type: 60,
  checksum: 64,
  uuid: 68,
  saved: 84,
} as const

/** Whether the bytes begin with `conectix`. */
export function isFooter(bytes: Uint8Array): boolean {
  return bytes.length >= cookie.length && cookie.every((byte, i) => bytes[i] === byte)
}

/** One's complement of the sum of all bytes but the four at `at`. */
export function vhdChecksum(bytes: Uint8Array, at: number): number {
  let sum = 0
  for (let i = 0; i < bytes.length; i++) {
    if (i < at || i >= at + 4) {
      sum += bytes[i] ?? 0
    }
  }
  return ~sum >>> 0
}

/** A view of a footer's 512 bytes. Setters leave the checksum alone: {@link Footer.seal}. */
export class Footer {
  readonly bytes: Uint8Array

  /** @param bytes 512 bytes, which the footer keeps */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  get checksumIsRight(): boolean {
    return readU32BE(this.bytes, At.checksum) === vhdChecksum(this.bytes, At.checksum)
  }

  /** Where the dynamic header stands; `Infinity` for all ones. */
  get dataOffset(): number {
    return readU64BE(this.bytes, At.dataOffset)
  }

  set dataOffset(offset: number) {
    writeU64BE(this.bytes, At.dataOffset, offset)
  }

  get type(): number {
    return readU32BE(this.bytes, At.type)
  }

  set type(type: number) {
    writeU32BE(this.bytes, At.type, type)
  }

  /** Seconds since 2000. */
  get timestamp(): number {
    return readU32BE(this.bytes, At.timestamp)
  }

  /** The four characters that name the program that made the disk. */
  get creator(): string {
    return String.fromCharCode(...this.bytes.subarray(At.creator, At.creator + 4))
  }

  /** Major and minor of that program's version, and the system it ran on. */
  get creatorVersion(): string {
    return `${readU16BE(this.bytes, At.creatorVersion)}.${readU16BE(this.bytes, At.creatorVersion + 2)}`
  }

  get creatorHost(): string {
    return String.fromCharCode(...this.bytes.subarray(At.creatorHost, At.creatorHost + 4))
  }

  set creator(name: string) {
    for (let i = 0; i < 4; i++) {
      this.bytes[At.creator + i] = name.charCodeAt(i)
    }
  }

  /** Bytes. */
  get currentSize(): number {
    return readU64BE(this.bytes, At.currentSize)
  }

  get geometry(): Geometry {
    return {
      cylinders: readU16BE(this.bytes, At.cylinders),
      heads: this.bytes[At.heads] ?? 0,
      sectors: this.bytes[At.sectors] ?? 0,
    }
  }

  get uuid(): Uint8Array {
    return this.bytes.subarray(At.uuid, At.uuid + 16)
  }

  /** Records a new length in bytes. */
  resize(size: number, geometry: Geometry): void {
    writeU64BE(this.bytes, At.currentSize, size)
    writeU16BE(this.bytes, At.cylinders, geometry.cylinders)
    this.bytes[At.heads] = geometry.heads
    this.bytes[At.sectors] = geometry.sectors
  }

  /** Puts the checksum right. */
  seal(): this {
    writeU32BE(this.bytes, At.checksum, vhdChecksum(this.bytes, At.checksum))
    return this
  }

  copy(): Footer {
    return new Footer(Uint8Array.from(this.bytes))
  }
}

export interface NewFooter {
  readonly type: number
  /** Bytes. */
  readonly size: number
  readonly geometry: Geometry
  readonly creator: string
  readonly uuid: Uint8Array
  /** Seconds since 2000. */
  readonly timestamp: number
  /** Where the dynamic header stands; undefined for a fixed disk. */
  readonly dataOffset: number | undefined
}

export function makeFooter(values: NewFooter): Footer {
  const bytes = new Uint8Array(footerBytes)
  bytes.set(cookie)
  // Feature bit 1 is reserved and always set.
  writeU32BE(bytes, At.features, 2)
  writeU32BE(bytes, At.version, 0x10000)
  if (values.dataOffset === undefined) {
    bytes.fill(0xff, At.dataOffset, At.dataOffset + 8)
  } else {
    writeU64BE(bytes, At.dataOffset, values.dataOffset)
  }
  writeU32BE(bytes, At.timestamp, values.timestamp)
  writeU16BE(bytes, At.creatorVersion, 5)
  writeU16BE(bytes, At.creatorVersion + 2, 3)
  bytes.set([0x57, 0x69, 0x32, 0x6b], At.creatorHost)
  writeU64BE(bytes, At.originalSize, values.size)
  writeU32BE(bytes, At.type, values.type)
  bytes.set(values.uuid, At.uuid)
  const footer = new Footer(bytes)
  footer.creator = values.creator
  footer.resize(values.size, values.geometry)
  return footer.seal()
}

/** Programs whose disks are as long as the footer says, whatever the geometry. */
const exactCreators = new Set(['win ', 'qem2', 'd2v ', 'tap\0', 'CTXS', 'wa\0\0'])

/** Whether the length of the disk is the footer's `current_size` rather than what its geometry says. */
export function usesCurrentSize(footer: Footer, how: 'auto' | 'chs' | 'current_size'): boolean {
  const exact = how === 'auto' ? exactCreators.has(footer.creator) : how === 'current_size'
  return exact || geometrySectors(footer.geometry) === maxGeometrySectors
}

/** Length of the disk in sectors; `Infinity` if the footer says nonsense. */
export function sectorsOf(footer: Footer, how: 'auto' | 'chs' | 'current_size'): number {
  return usesCurrentSize(footer, how)
    ? Math.floor(footer.currentSize / sectorBytes)
    : geometrySectors(footer.geometry)
}

/** Whether these 512 bytes at the end of a file of `length` bytes are the footer of a fixed disk. */
export function isFixedFooter(bytes: Uint8Array, length: number): boolean {
  const footer = new Footer(bytes)
  return (
    isFooter(bytes) &&
    footer.checksumIsRight &&
    footer.type === DiskType.fixed &&
    sectorsOf(footer, 'auto') * sectorBytes <= length - footerBytes
  )
}
