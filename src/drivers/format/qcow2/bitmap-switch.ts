import { type BitmapEntry, serializeBitmapDirectory } from './bitmap-directory.js'
import { planBitmapsHeader } from './bitmap-header.js'
import { readBitmapClusters } from './bitmap-table.js'
import { tableEntryBytes } from './constants.js'
import type { BitmapsExtension } from './header.js'
import type { Qcow2Metadata } from './metadata.js'

/** From one bitmap directory to the next. All with the metadata lock held. */

/** A directory that is in the file. */
export interface NextDirectory {
  /** What the header will say; undefined: that there are no bitmaps. */
  readonly extension: BitmapsExtension | undefined
  /** Has the header say so. */
  readonly point: () => Promise<void>
}

export interface SwitchFailure {
  readonly reason: unknown
  readonly undone: boolean
}

/** Writes a directory, which nothing points to yet, and makes it durable with all it refers to. */
export async function writeDirectory(
  meta: Qcow2Metadata,
  entries: readonly BitmapEntry[],
): Promise<NextDirectory> {
  if (entries.length === 0) {
    return { extension: undefined, point: planBitmapsHeader(meta, undefined) }
  }
  const bytes = serializeBitmapDirectory(entries, meta.header)
  const offset = await meta.allocator.allocate(meta.geometry.clusters(bytes.length))
  const extension = { count: entries.length, directorySize: bytes.length, directoryOffset: offset }
  try {
    const wait = meta.file.write(offset, bytes.length, bytes, 0, 0)
    if (wait !== undefined) {
      await wait
    }
    await meta.flushL2()
    await meta.flushBlocks()
    return { extension, point: planBitmapsHeader(meta, extension) }
  } catch (error) {
    await freeDirectory(meta, extension)
    throw error
  }
}

/**
 * Has the header point to another directory and frees the old one.
 *
 * @returns what went wrong, and whether the image is as it was for certain. If not, the file may
 *   have either header, and nothing is freed
 */
export async function switchTo(
  meta: Qcow2Metadata,
  { extension, point }: NextDirectory,
): Promise<SwitchFailure | undefined> {
  const old = meta.header.bitmaps
  try {
    await point()
  } catch (reason) {
    try {
      await meta.writeHeader()
    } catch {
      return { reason, undone: false }
    }
    await freeDirectory(meta, extension)
    return { reason, undone: true }
  }
  await freeDirectory(meta, old)
  return undefined
}

async function freeDirectory(meta: Qcow2Metadata, extension: BitmapsExtension | undefined): Promise<void> {
  if (extension !== undefined) {
    const { directoryOffset, directorySize } = extension
    await meta.allocator.free(directoryOffset, directorySize, 'other', false)
  }
}

/** Frees the clusters of bitmaps that nothing refers to. What cannot be read is leaked. */
export async function freeBitmaps(meta: Qcow2Metadata, entries: readonly BitmapEntry[]): Promise<void> {
  const { file, header, allocator } = meta
  for (const entry of entries) {
    let clusters: number[]
    try {
      clusters = await readBitmapClusters(file, header, entry)
    } catch {
      continue
    }
    for (const offset of clusters) {
      await allocator.free(offset, header.clusterSize, 'always', false)
    }
    await allocator.free(entry.tableOffset, entry.tableSize * tableEntryBytes, 'other', false)
  }
  await allocator.passDiscards()
}
