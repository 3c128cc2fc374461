import { readU32LE } from '../../../bytes/index.js'

/** The header, with the block table (BAT) right behind it. Bytes. */
export const headerBytes = 64
export const sectorBytes = 512

export const version = 2
/** `inUse` of an image that somebody writes to, or did not close. */
export const inUseMagic = 0x746f6e59
/** Geometry of new images: it means nothing. */
export const heads = 16
export const sectorsPerCylinder = 32

/** Entries of the largest table that is taken into memory: 64 MiB of it. */
export const maxEntries = 1 << 24

/** Offsets of the fields, bytes. Little-endian. */
export const at = {
  magic: 0,
  version: 16,
  heads: 20,
  cylinders: 24,
  tracks: 28,
  entries: 32,
  sectors: 36,
  inUse: 44,
  dataOffset: 48,
  flags: 52,
  extOffset: 56,
} as const

/** Entries of a `sectors` image count sectors, those of a `clusters` image count clusters. */
export type ImageKind = 'sectors' | 'clusters'

const magics: Readonly<Record<string, ImageKind>> = {
  WithoutFreeSpace: 'sectors',
  WithouFreSpacExt: 'clusters',
}

export const clustersMagic = 'WithouFreSpacExt'

/** What an image with this beginning is; undefined: none of ours. */
export function kindOf(head: Uint8Array): ImageKind | undefined {
  if (head.length < headerBytes || readU32LE(head, at.version) !== version) {
    return undefined
  }
  return magics[String.fromCharCode(...head.subarray(0, 16))]
}

export function isImageHead(head: Uint8Array): boolean {
  return kindOf(head) !== undefined
}

/** Bytes of the header and a table of `entries`, in whole sectors. */
export function tableEnd(entries: number): number {
  return Math.ceil((headerBytes + entries * 4) / sectorBytes) * sectorBytes
}
