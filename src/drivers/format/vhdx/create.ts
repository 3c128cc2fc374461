import { alignUp, isPowerOfTwo, writeU16LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import {
  type BlockNode,
  type CreateContext,
  fullBackingFilename,
  truncateNode,
} from '../../../graph/index.js'
import type { OptionsOf } from '../../../options/index.js'
import { Bat } from './bat.js'
import { crc32c } from './crc32c.js'
import { serializeHeader } from './header.js'
import {
  BlockState,
  chunkRatio,
  Guid,
  headerOffsets,
  headerSectionBytes,
  maxBlockBytes,
  maxDiskBytes,
  mebibyte,
  regionOffsets,
  tableBytes,
  tableEntries,
} from './layout.js'
import type { vhdxCreateOptions } from './options.js'
import { locatorOf, type ParentRecord, readParent } from './parent.js'
import { makeLocator } from './parent-locator.js'

/** Room between the table and the first block, metadata included. */
const spareBytes = 5 * mebibyte

/** Blocks of new differencing disks, unless the table would get too long: bytes, entries. */
const differencingBlockBytes = 2 * mebibyte
const longTable = 1 << 20

interface Plan {
  /** Logical and physical sectors, those of the parent if there is one. Bytes. */
  readonly sectorBytes: number
  readonly parent: ParentRecord | undefined
  readonly diskBytes: number
  readonly blockBytes: number
  readonly logBytes: number
  readonly fixed: boolean
  readonly zeroState: boolean
}

/**
 * Creates a disk with the layout QEMU gives it.
 *
 * @throws BlockError with QEMU's text
 */
export async function create(context: CreateContext): Promise<void> {
  const plan = checkOptions(context, await parentOf(context))
  const { diskBytes, blockBytes, logBytes, fixed, sectorBytes, parent } = plan
  const file = await context.createFile(0)
  const entries = tableEntries(
    diskBytes,
    blockBytes,
    chunkRatio(blockBytes, sectorBytes),
    parent !== undefined,
  )
  const batOffset = headerSectionBytes + logBytes
  const batBytes = Math.max(mebibyte, alignUp(entries * 8, mebibyte))
  const metadataOffset = batOffset + batBytes
  const dataOffset = batOffset + batBytes + spareBytes
  await write(file, 0, new TextEncoder().encode('vhdxfile'))
  await write(file, 8, utf16('QEMU v7.2.22'))
  const length = dataOffset + (fixed ? diskBytes : 0)
  await truncateNode(file, length, { exact: false, preallocation: 'off', zero: false })
  await writeTable(file, plan, entries, batOffset, dataOffset)
  const regions = regionTable(batOffset, batBytes, metadataOffset)
  for (const offset of regionOffsets) {
    await write(file, offset, regions)
  }
  const locator = parent === undefined ? new Uint8Array(0) : makeLocator(locatorOf(parent))
  await write(file, metadataOffset, metadataTable(locator.length))
  await write(file, metadataOffset + tableBytes, metadataItems(plan, context.host.randomBytes(16)))
  await write(file, metadataOffset + locatorOffset, locator)
  const first = context.host.randomBytes(4)
  const header = {
    sequence: ((first[0] ?? 0) << 16) | ((first[1] ?? 0) << 8) | (first[2] ?? 0),
    fileWriteGuid: context.host.randomBytes(16),
    dataWriteGuid: context.host.randomBytes(16),
    logGuid: new Uint8Array(16),
    logVersion: 0,
    version: 1,
    logLength: logBytes,
    logOffset: headerSectionBytes,
  }
  await write(file, headerOffsets[0], serializeHeader(header))
  await write(file, headerOffsets[1], serializeHeader({ ...header, sequence: header.sequence + 1 }))
}

async function parentOf({
  layer,
  host,
  filename,
  options,
}: CreateContext): Promise<ParentRecord | undefined> {
  const { backing_file: backing, backing_fmt: format }: OptionsOf<typeof vhdxCreateOptions> = options
  if (backing === undefined) {
    return undefined
  }
  return await readParent(layer, fullBackingFilename(filename, backing, host.pathStyle), backing, format)
}

function checkOptions({ options, exact = false }: CreateContext, parent: ParentRecord | undefined): Plan {
  const {
    size = 0,
    log_size = mebibyte,
    block_size = 0,
    subformat = 'dynamic',
    block_state_zero = parent === undefined,
  }: OptionsOf<typeof vhdxCreateOptions> = options
  const refuse = (message: string): Error => blockError('EINVAL', message)
  if (subformat !== 'dynamic' && subformat !== 'fixed') {
    throw refuse(`Parameter 'subformat' does not accept value '${subformat}'`)
  }
  if (parent !== undefined && subformat === 'fixed') {
    throw blockError('ENOTSUP', "Fixed image can't have backing file")
  }
  if (parent !== undefined && block_state_zero) {
    throw refuse("Blocks of type 'ZERO' would hide the backing file")
  }
  const sectorBytes = parent?.sectorBytes ?? 512
  const diskBytes = alignUp(size, sectorBytes)
  if (diskBytes > maxDiskBytes) {
    throw refuse('Image size too large; max of 64TB')
  }
  const logBytes = alignUp(log_size, mebibyte)
  if (logBytes >= 2 ** 32) {
    throw refuse('Log size must be smaller than 4 GB')
  }
  if (logBytes < mebibyte || (exact && logBytes !== log_size)) {
    throw refuse('Log size must be a multiple of 1 MB')
  }
  if (exact && block_size % mebibyte !== 0) {
    throw refuse('Block size must be a multiple of 1 MB')
  }
  const blockBytes =
    block_size === 0
      ? blockBytesFor(diskBytes, parent !== undefined)
      : Math.min(alignUp(block_size, mebibyte), maxBlockBytes)
  if (!isPowerOfTwo(blockBytes)) {
    throw refuse('Block size must be a power of two')
  }
  return {
    diskBytes,
    blockBytes,
    logBytes,
    sectorBytes,
    parent,
    fixed: subformat === 'fixed',
    zeroState: block_state_zero,
  }
}

function blockBytesFor(diskBytes: number, differencing: boolean): number {
  if (differencing) {
    let bytes = differencingBlockBytes
    while (diskBytes / bytes > longTable) {
      bytes *= 2
    }
    return bytes
  }
  if (diskBytes > 32 * 2 ** 40) {
    return 64 * mebibyte
  }
  if (diskBytes > 100 * 2 ** 30) {
    return 32 * mebibyte
  }
  return diskBytes > 2 ** 30 ? 16 * mebibyte : 8 * mebibyte
}

/** Entries written at a time. */
const entriesAtOnce = 1 << 17

async function writeTable(
  file: BlockNode,
  plan: Plan,
  entries: number,
  batOffset: number,
  dataOffset: number,
): Promise<void> {
  const { fixed, zeroState, blockBytes, sectorBytes } = plan
  if (!fixed && !zeroState) {
    return
  }
  const chunk = chunkRatio(blockBytes, sectorBytes) + 1
  const part = new Bat(new Uint8Array(entriesAtOnce * 8), entriesAtOnce, 0)
  for (let first = 0; first < entries; first += entriesAtOnce) {
    const count = Math.min(entriesAtOnce, entries - first)
    part.bytes.fill(0)
    for (let i = 0; i < count; i++) {
      const index = first + i
      if (index % chunk === chunk - 1) {
        continue
      }
      const block = index - Math.floor(index / chunk)
      // QEMU's way: in a fixed disk with zero blocks, no block has a place.
      if (fixed && !zeroState) {
        part.set(i, BlockState.fullyPresent, dataOffset + block * blockBytes)
      } else {
        part.set(i, BlockState.zero, 0)
      }
    }
    await write(file, batOffset + first * 8, part.bytes.subarray(0, count * 8))
  }
}

function utf16(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 2)
  for (let i = 0; i < text.length; i++) {
    writeU16LE(bytes, i * 2, text.charCodeAt(i))
  }
  return bytes
}

function regionTable(batOffset: number, batBytes: number, metadataOffset: number): Uint8Array {
  const bytes = new Uint8Array(tableBytes)
  bytes.set(new TextEncoder().encode('regi'))
  writeU32LE(bytes, 8, 2)
  bytes.set(Guid.bat, 16)
  writeU64LE(bytes, 32, batOffset)
  writeU32LE(bytes, 40, batBytes)
  bytes.set(Guid.metadata, 48)
  writeU64LE(bytes, 64, metadataOffset)
  writeU32LE(bytes, 72, mebibyte)
  writeU32LE(bytes, 4, crc32c(bytes, 4))
  return bytes
}

/** Items: identifier, bytes, flags (2: of the disk, not the file; 4: must be understood). */
const items = [
  [Guid.fileParameters, 8, 4],
  [Guid.virtualSize, 8, 6],
  [Guid.page83, 16, 6],
  [Guid.logicalSector, 4, 6],
  [Guid.physicalSector, 4, 6],
] as const

/** Place of the locator in the region: sectors of its own. */
const locatorOffset = tableBytes + 4096

/** @param locatorBytes 0: no parent */
function metadataTable(locatorBytes: number): Uint8Array {
  const bytes = new Uint8Array(tableBytes)
  bytes.set(new TextEncoder().encode('metadata'))
  writeU16LE(bytes, 10, items.length)
  let offset = tableBytes
  items.forEach(([guid, length, flags], index) => {
    const at = 32 + index * 32
    bytes.set(guid, at)
    writeU32LE(bytes, at + 16, offset)
    writeU32LE(bytes, at + 20, length)
    writeU32LE(bytes, at + 24, flags)
    offset += length
  })
  if (locatorBytes !== 0) {
    const at = 32 + items.length * 32
    bytes.set(Guid.parentLocator, at)
    writeU32LE(bytes, at + 16, locatorOffset)
    writeU32LE(bytes, at + 20, locatorBytes)
    writeU32LE(bytes, at + 24, 4)
    writeU16LE(bytes, 10, items.length + 1)
  }
  return bytes
}

function metadataItems(plan: Plan, page83: Uint8Array): Uint8Array {
  const { blockBytes, diskBytes, fixed, sectorBytes, parent } = plan
  const bytes = new Uint8Array(40)
  writeU32LE(bytes, 0, blockBytes)
  // Bit 0: blocks stay allocated; bit 1: there is a parent.
  writeU32LE(bytes, 4, (fixed ? 1 : 0) | (parent === undefined ? 0 : 2))
  writeU64LE(bytes, 8, diskBytes)
  bytes.set(page83, 16)
  writeU32LE(bytes, 32, sectorBytes)
  writeU32LE(bytes, 36, sectorBytes)
  return bytes
}

async function write(file: BlockNode, offset: number, bytes: Uint8Array): Promise<void> {
  const wait = file.write(offset, bytes.length, bytes, 0, 0)
  if (wait !== undefined) {
    await wait
  }
}
