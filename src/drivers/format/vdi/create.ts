import { blockError } from '../../../errors/index.js'
import { type BlockNode, type CreateContext, truncateNode } from '../../../graph/index.js'
import type { OptionsOf } from '../../../options/index.js'
import { maxBlocks, unallocated } from './block-map.js'
import { defaultBlockBytes, headerBytes, ImageType, makeHeader, maxDiskBytes, sectorBytes } from './header.js'
import type { vdiCreateOptions } from './options.js'

/**
 * Creates an image with the layout QEMU gives it.
 *
 * @throws BlockError with QEMU's text
 */
export async function create(context: CreateContext): Promise<void> {
  const given: OptionsOf<typeof vdiCreateOptions> = context.options
  const isStatic = given.static ?? false
  const size = Math.ceil((given.size ?? 0) / sectorBytes) * sectorBytes
  const limit = size > maxDiskBytes ? maxDiskBytes : maxBlocks * defaultBlockBytes
  if (size > limit) {
    throw blockError(
      'ENOTSUP',
      `Unsupported VDI image size (size is 0x${size.toString(16)}, max supported is 0x${limit.toString(16)})`,
    )
  }
  const blocks = Math.ceil(size / defaultBlockBytes)
  const map = new Uint32Array((Math.ceil((blocks * 4) / sectorBytes) * sectorBytes) / 4)
  const bytes = new DataView(map.buffer)
  for (let index = 0; index < blocks; index++) {
    bytes.setUint32(index * 4, isStatic ? index : unallocated, true)
  }
  const dataOffset = headerBytes + map.byteLength
  const header = makeHeader({
    size,
    type: isStatic ? ImageType.static : ImageType.dynamic,
    blocks,
    allocated: isStatic ? blocks : 0,
    mapOffset: headerBytes,
    dataOffset,
    uuid: newUuid(context),
    snapshotUuid: newUuid(context),
  })
  const file = await context.createFile(0)
  if (map.length > 0) {
    await write(file, headerBytes, new Uint8Array(map.buffer))
  }
  if (isStatic) {
    const end = dataOffset + blocks * defaultBlockBytes
    await truncateNode(file, end, { exact: false, preallocation: 'off', zero: false })
  }
  // Last: until then it is no image.
  await write(file, 0, header.bytes)
}

/** A random identifier (version 4), its first fields little-endian. */
function newUuid({ host }: CreateContext): Uint8Array {
  const uuid = Uint8Array.from(host.randomBytes(16))
  uuid[7] = ((uuid[7] ?? 0) & 0x0f) | 0x40
  uuid[8] = ((uuid[8] ?? 0) & 0x3f) | 0x80
  return uuid
}

async function write(file: BlockNode, offset: number, bytes: Uint8Array): Promise<void> {
  const wait = file.write(offset, bytes.length, bytes, 0, 0)
  if (wait !== undefined) {
    await wait
  }
}
