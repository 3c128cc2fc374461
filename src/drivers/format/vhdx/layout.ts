/** Sizes, places and identifiers of a VHDX file (MS-VHDX). All sizes in bytes. */

export const mebibyte = 1 << 20

export const headerBytes = 4096
export const headerOffsets = [0x10000, 0x20000] as const
export const tableBytes = 0x10000
export const regionOffsets = [0x30000, 0x40000] as const
/** Identifier, headers and region tables take the first MiB. */
export const headerSectionBytes = mebibyte

/** Unit of the log. */
export const logSectorBytes = 4096

/** Sectors that one bitmap block describes. */
export const sectorsPerBitmapBlock = 2 ** 23

export const maxDiskBytes = 64 * 2 ** 40
export const maxBlockBytes = 256 * mebibyte

/** State of a payload block. */
export const BlockState = {
  notPresent: 0,
  undefined: 1,
  zero: 2,
  unmapped: 3,
  /** As version 0.95 of the format had it. */
  unmappedOld: 5,
  fullyPresent: 6,
  partiallyPresent: 7,
} as const

/** An identifier as it stands in the file, from its usual notation. */
function guid(text: string): Uint8Array {
  const [a = '', b = '', c = '', d = '', e = ''] = text.split('-')
  const bytes = (hex: string): number[] => (hex.match(/../g) ?? []).map((pair) => Number.parseInt(pair, 16))
  return Uint8Array.from([
    ...bytes(a).reverse(),
    ...bytes(b).reverse(),
    ...bytes(c).reverse(),
    ...bytes(d),
    ...bytes(e),
  ])
}

export const Guid = {
  bat: guid('2dc27766-f623-4200-9d64-115e9bfd4a08'),
  metadata: guid('8b7ca206-4790-4b9a-b8fe-575f050f886e'),
  fileParameters: guid('caa16737-fa36-4d43-b3b6-33f0aa44e76b'),
  virtualSize: guid('2fa54224-cd1b-4876-b211-5dbed83bf4b8'),
  page83: guid('beca12ab-b2e6-4523-93ef-c309e000c746'),
  logicalSector: guid('8141bf1d-a96f-4709-ba47-f233a8faab5f'),
  physicalSector: guid('cda348c7-445d-4471-9cc9-e9885251c556'),
  parentLocator: guid('a8d35f2d-b30b-454d-abf7-d3d84834ab0c'),
} as const

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}

export function isZeroGuid(guid: Uint8Array): boolean {
  return guid.every((byte) => byte === 0)
}

/**
 * Entries of the block table: a bitmap entry follows every `ratio` blocks, and if the disk has a parent
 * also the last ones.
 */
export function tableEntries(
  diskBytes: number,
  blockBytes: number,
  ratio: number,
  hasParent = false,
): number {
  const blocks = Math.ceil(diskBytes / blockBytes)
  if (hasParent) {
    return Math.ceil(blocks / ratio) * (ratio + 1)
  }
  return blocks === 0 ? 0 : blocks + Math.floor((blocks - 1) / ratio)
}

/** Payload blocks per bitmap block. */
export function chunkRatio(blockBytes: number, sectorBytes: number): number {
  return (sectorsPerBitmapBlock * sectorBytes) / blockBytes
}
