import { writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { blockError } from '../../../errors/index.js'
import type { BlockNode, CreateContext } from '../../../graph/index.js'
import type { OptionsOf } from '../../../options/index.js'
import {
  at,
  clustersMagic,
  headerBytes,
  heads,
  maxEntries,
  sectorBytes,
  sectorsPerCylinder,
  version,
} from './layout.js'
import type { parallelsCreateOptions } from './options.js'

const defaultClusterBytes = 1 << 20
/** QEMU's limits: bytes of a cluster, and how many of them make a disk. */
const maxClusterBytes = 0x7fffffff
const maxClusters = 2 ** 32

/**
 * Creates an image with the layout QEMU gives it.
 *
 * @throws BlockError with QEMU's text
 */
export async function create(context: CreateContext): Promise<void> {
  const given: OptionsOf<typeof parallelsCreateOptions> = context.options
  const size = roundUp(given.size ?? 0, sectorBytes)
  const clusterSize = roundUp(given.cluster_size ?? defaultClusterBytes, sectorBytes)
  if (context.exact === true && clusterSize !== (given.cluster_size ?? clusterSize)) {
    throw blockError('EINVAL', 'Cluster size must be a multiple of 512 bytes')
  }
  if (context.exact === true && size !== (given.size ?? size)) {
    throw blockError('EINVAL', 'Image size must be a multiple of 512 bytes')
  }
  if (clusterSize >= maxClusterBytes) {
    throw blockError('EINVAL', 'Cluster size is too large')
  }
  const clusters = Math.ceil(size / clusterSize)
  if (size >= maxClusters * clusterSize || clusters > maxEntries) {
    throw blockError('E2BIG', 'Image size is too large for this cluster size')
  }
  const dataOffset = roundUp(headerBytes + clusters * 4, clusterSize)
  const bytes = new Uint8Array(sectorBytes)
  bytes.set(new TextEncoder().encode(clustersMagic), at.magic)
  writeU32LE(bytes, at.version, version)
  writeU32LE(bytes, at.heads, heads)
  writeU32LE(bytes, at.cylinders, cylindersOf(size))
  writeU32LE(bytes, at.tracks, clusterSize / sectorBytes)
  writeU32LE(bytes, at.entries, clusters)
  writeU64LE(bytes, at.sectors, size / sectorBytes)
  writeU32LE(bytes, at.dataOffset, dataOffset / sectorBytes)
  const file = await context.createFile(0)
  if (dataOffset > sectorBytes) {
    await zero(file, sectorBytes, dataOffset - sectorBytes)
  }
  // Last: until then it is no image.
  const wait = file.write(0, bytes.length, bytes, 0, 0)
  if (wait !== undefined) {
    await wait
  }
}

/** What the header says besides the number of sectors, of which it holds the lower 32 bits. */
export function cylindersOf(size: number): number {
  return Math.floor(size / sectorBytes / heads / sectorsPerCylinder) % 2 ** 32
}

async function zero(file: BlockNode, offset: number, bytes: number): Promise<void> {
  const wait = file.writeZeroes(offset, bytes, 0)
  if (wait !== undefined) {
    await wait
  }
}

function roundUp(value: number, unit: number): number {
  return unit === 0 ? value : Math.ceil(value / unit) * unit
}
