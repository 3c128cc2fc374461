import { blockError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import type { OpenContext } from '../../../graph/index.js'
import { takeOptions } from '../../../options/index.js'
import { BlockMap, maxBlocks } from './block-map.js'
import { headerBytes, maxDiskBytes, sectorBytes, VdiHeader } from './header.js'
import { VdiImage } from './image.js'
import { vdiOptions } from './options.js'
import { BlockSpace } from './space.js'

const qemuMaxBlocks = 0x1fffff80
/** Smallest and largest block we open, bytes; QEMU knows 1 MiB only. */
const blockRange = { min: 4096, max: 1 << 28 }

/**
 * Opens an image: header and block map.
 *
 * @throws BlockError with QEMU's text
 */
export async function open({ file, node, options }: OpenContext): Promise<VdiImage> {
  takeOptions(options, vdiOptions)
  const header = new VdiHeader(new Uint8Array(headerBytes))
  await readPadded(file.node, 0, header.bytes)
  const length = checkHeader(header)
  const bytes = new Uint8Array(Math.ceil((header.blocks * 4) / sectorBytes) * sectorBytes)
  await readPadded(file.node, header.mapOffset, bytes)
  const map = new BlockMap(file, header.mapOffset, bytes)
  checkPlaces(header, map)
  const space = new BlockSpace(file, header, map)
  return new VdiImage(node, length, { file, header, map, space })
}

function unsupported(text: string): Error {
  return blockError('ENOTSUP', `unsupported VDI image (${text})`)
}

/** Checks the header in QEMU's order; the result is the length of the disk, bytes. */
function checkHeader(header: VdiHeader): number {
  if (header.diskSize > maxDiskBytes) {
    const limit = maxDiskBytes.toString(16)
    throw blockError(
      'ENOTSUP',
      `Unsupported VDI image size (size is 0x${header.diskSizeHex}, max supported is 0x${limit})`,
    )
  }
  // Converters have made images that end inside a sector.
  const length = Math.ceil(header.diskSize / sectorBytes) * sectorBytes
  if (!header.hasSignature) {
    const found = header.signature.toString(16).padStart(8, '0')
    throw blockError('EINVAL', `Image not in VDI format (bad signature ${found})`)
  }
  if (!header.isKnownVersion) {
    throw unsupported(`version ${header.version >>> 16}.${header.version & 0xffff}`)
  }
  if (header.mapOffset % sectorBytes !== 0) {
    throw unsupported(`unaligned block map offset 0x${header.mapOffset.toString(16)}`)
  }
  if (header.dataOffset % sectorBytes !== 0) {
    throw unsupported(`unaligned data offset 0x${header.dataOffset.toString(16)}`)
  }
  if (header.sectorSize !== sectorBytes) {
    throw unsupported(`sector size ${header.sectorSize} is not ${sectorBytes}`)
  }
  const { blockSize, blocks } = header
  if (blockSize < blockRange.min || blockSize > blockRange.max || (blockSize & (blockSize - 1)) !== 0) {
    throw unsupported(`block size ${blockSize} is not ${1 << 20}`)
  }
  if (length > blocks * blockSize) {
    throw unsupported(`disk size ${length}, image bitmap has room for ${blocks * blockSize}`)
  }
  if (header.hasLink) {
    throw unsupported('non-NULL link UUID')
  }
  if (header.hasParent) {
    throw unsupported('non-NULL parent UUID')
  }
  if (blocks > maxBlocks) {
    throw unsupported(
      `too many blocks ${blocks}, max is ${blocks > qemuMaxBlocks ? qemuMaxBlocks : maxBlocks}`,
    )
  }
  return length
}

/** Offsets of blocks are numbers: with blocks of more than 1 MiB the map could name places beyond them. */
function checkPlaces(header: VdiHeader, map: BlockMap): void {
  const most = Math.floor((Number.MAX_SAFE_INTEGER - header.dataOffset) / header.blockSize) - 1
  if (most >= 0xffffffff) {
    return
  }
  for (let index = 0; index < header.blocks; index++) {
    const block = map.block(index)
    if (block !== undefined && block > most) {
      throw unsupported(`block ${index} is number ${block}, max is ${most}`)
    }
  }
}
