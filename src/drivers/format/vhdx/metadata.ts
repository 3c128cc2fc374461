import { readU16LE, readU32LE, readU64LE } from '../../../bytes/index.js'
import { type BlockError, blockError } from '../../../errors/index.js'
import { crc32c } from './crc32c.js'
import { BlockState, chunkRatio, Guid, maxBlockBytes, mebibyte, sameBytes, tableBytes } from './layout.js'
import { maxLocatorBytes, parseLocator } from './parent-locator.js'

export interface Region {
  /** Bytes. */
  readonly offset: number
  readonly length: number
}

export interface Regions {
  /** Another one after the table has outgrown it. */
  bat: Region
  readonly metadata: Region
  /** All of them and the log, last first. */
  readonly all: Region[]
}

export interface DiskParameters {
  readonly blockBytes: number
  readonly sectorBytes: number
  /** Another one after a resize. */
  diskBytes: number
  /** Payload blocks per bitmap block. */
  readonly ratio: number
  /** Blocks stay allocated: a fixed disk. */
  readonly leaveAllocated: boolean
  readonly physicalSectorBytes: number
  /** Identifier of the disk. */
  readonly diskId: Uint8Array
  /** Where the parent of a differencing disk is and who. */
  readonly parent: ReadonlyMap<string, string> | undefined
}

const maxRegions = 2047
const requiredRegion = 1
const requiredItem = 4
const hasParent = 2

const invalid = (): BlockError => blockError('EINVAL', 'Invalid argument')
const unsupported = (): BlockError => blockError('ENOTSUP', 'Operation not supported')

export function overlaps(a: Region, b: Region): boolean {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length
}

export function overlapText(a: Region, b: Region): string {
  return `VHDX region ${a.offset}-${a.offset + a.length} overlaps with region ${b.offset}-${b.offset + b.length}`
}

/**
 * Reads the region table in 64 KiB. `log` is a region, too. What overlaps is told to `warn`.
 *
 * @throws BlockError EINVAL, ENOTSUP
 */
export function parseRegions(table: Uint8Array, log: Region, warn: (line: string) => void): Regions {
  const isTable = table[0] === 0x72 && table[1] === 0x65 && table[2] === 0x67 && table[3] === 0x69
  const count = readU32LE(table, 8)
  if (readU32LE(table, 4) !== crc32c(table, 4) || !isTable || count > maxRegions) {
    throw invalid()
  }
  const all: Region[] = [log]
  let bat: Region | undefined
  let metadata: Region | undefined
  for (let i = 0; i < count; i++) {
    const at = 16 + i * 32
    const id = table.subarray(at, at + 16)
    const region = { offset: readU64LE(table, at + 16), length: readU32LE(table, at + 24) }
    if (!Number.isSafeInteger(region.offset + region.length)) {
      throw invalid()
    }
    const other = all.find((one) => overlaps(one, region))
    if (other !== undefined) {
      warn(overlapText(region, other))
      throw invalid()
    }
    // Newest first: that is the order in which overlaps are reported.
    all.unshift(region)
    const isBat = sameBytes(id, Guid.bat)
    if (isBat || sameBytes(id, Guid.metadata)) {
      if ((isBat ? bat : metadata) !== undefined) {
        throw invalid()
      }
      if (isBat) {
        bat = region
      } else {
        metadata = region
      }
    } else if ((readU32LE(table, at + 28) & requiredRegion) !== 0) {
      throw unsupported()
    }
  }
  if (bat === undefined || metadata === undefined) {
    throw invalid()
  }
  return { bat, metadata, all }
}

const items = [
  'fileParameters',
  'virtualSize',
  'page83',
  'logicalSector',
  'physicalSector',
  'parentLocator',
] as const

/**
 * Reads the metadata table (64 KiB) and, with `item`, what it refers to: bytes at an offset from the
 * start of the region. @throws BlockError EINVAL, ENOTSUP
 */
export async function parseMetadata(
  table: Uint8Array,
  item: (offset: number, bytes: number) => Promise<Uint8Array>,
): Promise<DiskParameters> {
  const signature = String.fromCharCode(...table.subarray(0, 8))
  const count = readU16LE(table, 10)
  if (signature !== 'metadata' || count * 32 > tableBytes - 32) {
    throw invalid()
  }
  const found = new Map<(typeof items)[number], number>()
  let locatorBytes = 0
  for (let i = 0; i < count; i++) {
    const at = 32 + i * 32
    const name = items.find((one) => sameBytes(table.subarray(at, at + 16), Guid[one]))
    if (name !== undefined) {
      if (found.has(name)) {
        throw invalid()
      }
      found.set(name, readU32LE(table, at + 16))
      if (name === 'parentLocator') {
        locatorBytes = readU32LE(table, at + 20)
      }
    } else if ((readU32LE(table, at + 24) & requiredItem) !== 0) {
      throw unsupported()
    }
  }
  const hasLocator = found.has('parentLocator')
  if (found.size !== (hasLocator ? 6 : 5)) {
    throw unsupported()
  }
  const at = (name: (typeof items)[number]): number => found.get(name) ?? 0
  const parameters = await item(at('fileParameters'), 8)
  const flags = readU32LE(parameters, 4)
  const isDifferencing = (flags & hasParent) !== 0
  if (isDifferencing !== hasLocator) {
    throw isDifferencing ? invalid() : unsupported()
  }
  const blockBytes = readU32LE(parameters, 0)
  const diskBytes = readU64LE(await item(at('virtualSize'), 8), 0)
  const sectorBytes = readU32LE(await item(at('logicalSector'), 4), 0)
  const isPower = (blockBytes & (blockBytes - 1)) === 0
  if (blockBytes < mebibyte || blockBytes > maxBlockBytes || !isPower) {
    throw invalid()
  }
  if (sectorBytes !== 512 && sectorBytes !== 4096) {
    throw unsupported()
  }
  let parent: Map<string, string> | undefined
  if (isDifferencing) {
    if (locatorBytes < 20 || locatorBytes > maxLocatorBytes) {
      throw invalid()
    }
    parent = parseLocator(await item(at('parentLocator'), locatorBytes))
    if (parent === undefined) {
      throw invalid()
    }
  }
  return {
    blockBytes,
    sectorBytes,
    diskBytes,
    ratio: chunkRatio(blockBytes, sectorBytes),
    leaveAllocated: (flags & 1) !== 0,
    physicalSectorBytes: readU32LE(await item(at('physicalSector'), 4), 0),
    diskId: await item(at('page83'), 16),
    parent,
  }
}

/** Whether a block in this state has a place in the file. */
export function isPresent(state: number): boolean {
  return state === BlockState.fullyPresent || state === BlockState.partiallyPresent
}
