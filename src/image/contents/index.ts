import type { BlockLayer, BlockNode } from '../../graph/index.js'
import { type ImageSpec, openImage } from '../open.js'
import { type FileSystem, identifyFileSystem } from './file-systems.js'
import { type DiskReader, type Partition, readPartitions } from './partitions.js'

export type { FileSystem, Partition }

/** What stands on a disk. */
export interface DiskContents {
  /** Absent: the disk has no partition table. */
  readonly 'partition-table'?: 'gpt' | 'mbr'
  readonly partitions?: readonly (Partition & { readonly 'file-system'?: FileSystem })[]
  /** The file system of a disk without partitions. */
  readonly 'file-system'?: FileSystem
}

/** Looks at the partition table and the superblocks of an open disk: a few small reads each. */
export async function diskContents(node: BlockNode): Promise<DiskContents> {
  const read: DiskReader = async (offset, bytes) => {
    const data = new Uint8Array(bytes)
    const inside = Math.max(0, Math.min(bytes, node.length - offset))
    if (inside > 0) {
      await node.read(offset, inside, data, 0, 0)
    }
    return data
  }
  const table = await readPartitions(read, node.length)
  if (table === undefined) {
    const found = await identifyFileSystem(read, 0)
    return found === undefined ? {} : { 'file-system': found }
  }
  const partitions: (Partition & { 'file-system'?: FileSystem })[] = []
  for (const partition of table.partitions) {
    const isContainer = partition.type === 'extended' || partition.type === 'GPT protective'
    const found = isContainer ? undefined : await identifyFileSystem(read, partition.start)
    partitions.push(found === undefined ? partition : { ...partition, 'file-system': found })
  }
  return { 'partition-table': table.table, partitions }
}

/** Opens an image, with its backing chain, and looks at what stands on it. @throws BlockError */
export async function imageContents(layer: BlockLayer, image: ImageSpec | string): Promise<DiskContents> {
  const backend = await openImage(layer, image)
  try {
    return await diskContents(backend.node)
  } finally {
    await backend.close()
  }
}
