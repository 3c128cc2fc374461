import { guidText, readU32LE, readU64LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'

export const headerBytes = 512
export const sectorBytes = 512
/** Blocks of the images we make, and the only size that QEMU knows. */
export const defaultBlockBytes = 1 << 20
/** QEMU's limit: 2^29 - 128 blocks of 1 MiB. */
export const maxDiskBytes = 0x1fffff8000000

const signature = 0xbeda107f
const version11 = 0x00010001

export const ImageType = { dynamic: 1, static: 2 } as const

/** Offsets of the fields, bytes. Little-endian; version 1.1. */
const at = {
  signature: 0x40,
  version: 0x44,
  headerSize: 0x48,
  type: 0x4c,
  description: 0x54,
  mapOffset: 0x154,
  dataOffset: 0x158,
  sectorSize: 0x168,
  diskSize: 0x170,
  blockSize: 0x178,
  blocks: 0x180,
  allocated: 0x184,
  uuid: 0x188,
  snapshotUuid: 0x198,
  linkUuid: 0x1a8,
  parentUuid: 0x1b8,
} as const

const descriptionBytes = 256

/** Whether `head` begins like a VDI image. */
export function hasSignature(head: Uint8Array): boolean {
  return head.length >= headerBytes && readU32LE(head, at.signature) === signature
}

/** The first sector of an image; getters give the fields as they stand there. */
export class VdiHeader {
  readonly bytes: Uint8Array

  /** @param bytes 512 bytes, which this object keeps */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  #u32(offset: number): number {
    return readU32LE(this.bytes, offset)
  }

  get signature(): number {
    return this.#u32(at.signature)
  }

  get hasSignature(): boolean {
    return this.signature === signature
  }

  /** Major in the upper half, minor in the lower. */
  get version(): number {
    return this.#u32(at.version)
  }

  get isKnownVersion(): boolean {
    return this.version === version11
  }

  get type(): number {
    return this.#u32(at.type)
  }

  /** Where the block map stands, bytes. */
  get mapOffset(): number {
    return this.#u32(at.mapOffset)
  }

  set mapOffset(value: number) {
    writeU32LE(this.bytes, at.mapOffset, value)
  }

  /** Where block 0 stands, bytes. */
  get dataOffset(): number {
    return this.#u32(at.dataOffset)
  }

  set dataOffset(value: number) {
    writeU32LE(this.bytes, at.dataOffset, value)
  }

  get sectorSize(): number {
    return this.#u32(at.sectorSize)
  }

  /** Bytes; may be above what numbers hold exactly, so compare before use. */
  get diskSize(): number {
    return readU64LE(this.bytes, at.diskSize)
  }

  set diskSize(value: number) {
    writeU64LE(this.bytes, at.diskSize, value)
  }

  /** The upper and lower half of the size, for messages. */
  get diskSizeHex(): string {
    const high = this.#u32(at.diskSize + 4)
    const low = this.#u32(at.diskSize)
    return high === 0 ? low.toString(16) : high.toString(16) + low.toString(16).padStart(8, '0')
  }

  /** Bytes. */
  get blockSize(): number {
    return this.#u32(at.blockSize)
  }

  /** Entries of the block map. */
  get blocks(): number {
    return this.#u32(at.blocks)
  }

  set blocks(value: number) {
    writeU32LE(this.bytes, at.blocks, value)
  }

  /** Blocks that are there; the next new one gets this number. */
  get allocated(): number {
    return this.#u32(at.allocated)
  }

  set allocated(value: number) {
    writeU32LE(this.bytes, at.allocated, value)
  }

  /** Identifiers, as texts. */
  get uuid(): string {
    return this.#guid(at.uuid)
  }

  get snapshotUuid(): string {
    return this.#guid(at.snapshotUuid)
  }

  /** What the image's creator says of it. */
  get description(): string {
    const text = this.bytes.subarray(at.description, at.description + descriptionBytes)
    const end = text.indexOf(0)
    return new TextDecoder().decode(end < 0 ? text : text.subarray(0, end)).trim()
  }

  #guid(offset: number): string {
    return guidText(this.bytes.subarray(offset, offset + 16))
  }

  get hasLink(): boolean {
    return this.#isSet(at.linkUuid)
  }

  get hasParent(): boolean {
    return this.#isSet(at.parentUuid)
  }

  #isSet(offset: number): boolean {
    return this.bytes.subarray(offset, offset + 16).some((byte) => byte !== 0)
  }
}

export interface NewImage {
  readonly size: number
  readonly type: number
  readonly blocks: number
  readonly allocated: number
  readonly mapOffset: number
  readonly dataOffset: number
  /** 16 bytes each. */
  readonly uuid: Uint8Array
  readonly snapshotUuid: Uint8Array
}

export function makeHeader(image: NewImage): VdiHeader {
  const bytes = new Uint8Array(headerBytes)
  bytes.set(new TextEncoder().encode('<<< QEMU VM Virtual Disk Image >>>\n'))
  writeU32LE(bytes, at.signature, signature)
  writeU32LE(bytes, at.version, version11)
  writeU32LE(bytes, at.headerSize, 0x180)
  writeU32LE(bytes, at.type, image.type)
  writeU32LE(bytes, at.sectorSize, sectorBytes)
  writeU32LE(bytes, at.blockSize, defaultBlockBytes)
  bytes.set(image.uuid, at.uuid)
  bytes.set(image.snapshotUuid, at.snapshotUuid)
  const header = new VdiHeader(bytes)
  header.mapOffset = image.mapOffset
  header.dataOffset = image.dataOffset
  header.diskSize = image.size
  header.blocks = image.blocks
  header.allocated = image.allocated
  return header
}
