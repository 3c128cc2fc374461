import { blockError, codeOf, errnoError } from '../../../errors/index.js'
import type { DirtyBitmap } from '../../../graph/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { type BitmapEntry, maxBitmapBytes, maxTableEntries } from './bitmap-directory.js'
import { bitmapClusterSpan } from './bitmap-load.js'
import { allOnes, serializeBitmapTable } from './bitmap-table.js'
import { tableEntryBytes } from './constants.js'
import type { Qcow2Metadata } from './metadata.js'

/** A bitmap about to be written. */
export interface StoredBitmap {
  readonly bitmap: DirtyBitmap
  readonly name: string
  readonly nameBytes: Uint8Array
}

/**
 * Writes a bitmap into new clusters and returns the directory entry for it. Nothing refers to them
 * yet. Metadata lock held.
 *
 * @throws BlockError with QEMU's text; the clusters are free again
 */
export async function writeBitmap(
  meta: Qcow2Metadata,
  { bitmap, name, nameBytes }: StoredBitmap,
): Promise<BitmapEntry> {
  const { clusterSize } = meta.header
  const { bits } = bitmap
  const tableSize = Math.ceil(bits.serializedLength(0, bits.size) / clusterSize)
  if (tableSize > maxTableEntries || tableSize * clusterSize > maxBitmapBytes) {
    throw blockError('EFBIG', `Bitmap '${name}' is too big`)
  }
  if (tableSize === 0) {
    // A disk of no bytes: the format has no empty tables. QEMU fails with the same words.
    throw blockError('ENOMEM', 'No memory')
  }
  const table = new Float64Array(tableSize)
  try {
    await writeData(meta, bitmap, name, table)
    const bytes = serializeBitmapTable(table)
    const tableOffset = await allocate(meta, meta.geometry.clusters(bytes.length), name)
    try {
      await write(meta, tableOffset, bytes, name)
    } catch (error) {
      await meta.allocator.free(tableOffset, tableSize * tableEntryBytes, 'other', false)
      throw error
    }
    const { granularity, enabled } = bitmap
    return { name, nameBytes, granularity, tableOffset, tableSize, inUse: false, auto: enabled }
  } catch (error) {
    for (const offset of table) {
      if (offset > allOnes) {
        await meta.allocator.free(offset, clusterSize, 'always', false)
      }
    }
    throw error
  }
}

/** Writes each cluster of the bitmap that has a bit set, and notes it in `table`. */
async function writeData(
  meta: Qcow2Metadata,
  { bits }: DirtyBitmap,
  name: string,
  table: Float64Array,
): Promise<void> {
  const { clusterSize } = meta.header
  const slice = new TimeSlice()
  const span = bitmapClusterSpan(meta.header, bits.granularity)
  for (let at = bits.nextDirty(0); at >= 0; ) {
    const index = Math.floor(at / span)
    const start = index * span
    const bytes = Math.min(span, bits.size - start)
    const cluster = new Uint8Array(clusterSize)
    bits.serialize(start, bytes, cluster)
    const offset = await allocate(meta, 1, name)
    table[index] = offset
    await write(meta, offset, cluster, name)
    at = bits.nextDirty(start + bytes)
    const pause = slice.breathe()
    if (pause !== undefined) {
      await pause
    }
  }
}

async function allocate(meta: Qcow2Metadata, clusters: number, name: string): Promise<number> {
  try {
    return await meta.allocator.allocate(clusters)
  } catch (error) {
    throw errnoError(codeOf(error), `Failed to allocate clusters for bitmap '${name}'`, { cause: error })
  }
}

async function write(meta: Qcow2Metadata, offset: number, bytes: Uint8Array, name: string): Promise<void> {
  try {
    const wait = meta.file.write(offset, bytes.length, bytes, 0, 0)
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    throw errnoError(codeOf(error), `Failed to write bitmap '${name}' to file`, { cause: error })
  }
}
