import { blockError, ioError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import type { OpenContext } from '../../../graph/index.js'
import { maxLength } from '../../../io/index.js'
import { takeOptions } from '../../../options/index.js'
import { BlockTable, maxTableEntries } from './block-table.js'
import { DynamicHeader, dynamicHeaderBytes } from './dynamic-header.js'
import { DiskType, Footer, footerBytes, isFooter, sectorsOf } from './footer.js'
import { maxSectors, sectorBytes } from './geometry.js'
import { VpcImage } from './image.js'
import { vpcRuntimeOptions } from './options.js'
import { parentNameOf } from './parent.js'
import { BlockSpace, blockShape, metadataEnd } from './space.js'

/** QEMU's own limit, which its text speaks of. */
const qemuTableEntries = 0x1fffffff

/**
 * Opens a disk: footer, and for all but fixed disks header and block table.
 *
 * @throws BlockError with QEMU's text
 */
export async function open(context: OpenContext): Promise<VpcImage> {
  const { file, node, options } = context
  const calc = sizeCalculation(takeOptions(options, vpcRuntimeOptions).force_size_calc)
  const { footer, atStart } = await readFooter(context)
  const sectors = sectorsOf(footer, calc)
  if (sectors > maxSectors) {
    throw ioError('EFBIG')
  }
  const length = sectors * sectorBytes
  if (!atStart) {
    node.supportsBacking = false
    return new VpcImage({ node, file, footer, length, calc, blocks: undefined, parent: undefined })
  }
  const header = await readDynamicHeader(context, footer)
  const shape = blockShape(header.blockSize)
  checkEntries(header, length)
  const bytes = new Uint8Array(header.maxEntries * 4)
  if (header.tableOffset > maxLength - bytes.length) {
    throw blockError('EIO', 'Error reading pagetable')
  }
  if (header.tableOffset + bytes.length > file.node.length) {
    throw truncated()
  }
  await readPadded(file.node, header.tableOffset, bytes)
  const table = new BlockTable(file, header.tableOffset, bytes)
  const blockBytes = shape.blockSize + shape.bitmapBytes
  if (table.end(blockBytes) > file.node.length) {
    throw truncated()
  }
  const free = Math.max(table.end(blockBytes), metadataEnd(file, footer, header, table))
  const space = new BlockSpace(file, blockBytes, footer, free)
  const differencing = footer.type === DiskType.differencing
  node.supportsBacking = differencing
  return new VpcImage({
    node,
    file,
    footer,
    length,
    calc,
    blocks: { header, table, space, shape },
    parent: differencing ? await parentOf(context, header) : undefined,
  })
}

/** Name of the parent of a differencing disk; undefined where it does not matter. */
async function parentOf(context: OpenContext, header: DynamicHeader): Promise<string | undefined> {
  if (!header.checksumIsRight) {
    throw blockError('EINVAL', 'Incorrect dynamic header checksum')
  }
  const name = await parentNameOf(context, header)
  const { flags, options } = context
  const isGiven = options.keys().some((key) => key === 'backing' || key.startsWith('backing.'))
  if (name === undefined && !flags.noBacking && !isGiven) {
    throw blockError('EINVAL', 'Differencing disk does not say where its parent is')
  }
  return name
}

export type SizeCalculation = 'auto' | 'chs' | 'current_size'

function sizeCalculation(given: string | undefined): SizeCalculation {
  if (given === undefined || given === '') {
    return 'auto'
  }
  if (given !== 'chs' && given !== 'current_size') {
    throw blockError('EINVAL', `Invalid size calculation mode: '${given}'`)
  }
  return given
}

function truncated(): Error {
  return blockError(
    'EINVAL',
    'block-vpc: free_data_block_offset points after the end of file. The image has been truncated.',
  )
}

/** The footer from the start of the file or, for a fixed disk, from its end. */
async function readFooter({ file }: OpenContext): Promise<{ footer: Footer; atStart: boolean }> {
  const bytes = new Uint8Array(footerBytes)
  await readPadded(file.node, 0, bytes)
  const atStart = isFooter(bytes)
  if (!atStart) {
    if (file.node.length < footerBytes) {
      throw blockError('EINVAL', 'File too small for a VHD header')
    }
    await readPadded(file.node, file.node.length - footerBytes, bytes)
  }
  const footer = new Footer(bytes)
  if (!isFooter(bytes) || (!atStart && footer.type !== DiskType.fixed)) {
    throw blockError('EINVAL', 'invalid VPC image')
  }
  if (!footer.checksumIsRight) {
    throw blockError('EINVAL', 'Incorrect header checksum')
  }
  return { footer, atStart }
}

async function readDynamicHeader({ file }: OpenContext, footer: Footer): Promise<DynamicHeader> {
  if (footer.dataOffset > maxLength - dynamicHeaderBytes) {
    throw blockError('EIO', 'Error reading dynamic VHD header')
  }
  const header = new DynamicHeader(new Uint8Array(dynamicHeaderBytes))
  await readPadded(file.node, footer.dataOffset, header.bytes)
  if (!header.hasCookie) {
    throw blockError('EINVAL', 'Invalid header magic')
  }
  const { blockSize } = header
  if (blockSize < sectorBytes || (blockSize & (blockSize - 1)) !== 0) {
    throw blockError('EINVAL', `Invalid block size ${blockSize}`)
  }
  return header
}

function checkEntries({ maxEntries, blockSize }: DynamicHeader, length: number): void {
  if (maxEntries * blockSize < length) {
    throw blockError('EINVAL', 'Page table too small')
  }
  if (maxEntries > Math.min(maxTableEntries, qemuTableEntries)) {
    throw blockError('EINVAL', `Max Table Entries too large (${maxEntries | 0})`)
  }
}
