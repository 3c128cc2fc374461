import { truncateNode } from '../../../graph/index.js'
import { tableEntryBytes } from './constants.js'
import type { Qcow2Metadata } from './metadata.js'
import type { ZeroDiscard } from './zero-discard.js'

/** Clusters in front of the L1 table of a fresh image: header, refcount table, refcount block. */
const fixedClusters = 3

/**
 * Forgets all guest data, so that the backing file shows through. What is stored must be the same as
 * below: while this runs, and after a crash, either of the two may be seen. Nothing is in flight.
 *
 * An image laid out like a fresh one becomes as small as one; others give up their clusters one by one.
 */
export async function makeEmpty(meta: Qcow2Metadata, zeroDiscard: ZeroDiscard): Promise<void> {
  if (await meta.locked(() => tryEmptyCompletely(meta))) {
    return
  }
  const { geometry, header } = meta
  await zeroDiscard.change(0, geometry.clusterEnd(header.size), 'forget', 'snapshot')
}

/** Whether nothing but the fixed tables will be needed, and these stand where they shall stay. */
async function isSimple(meta: Qcow2Metadata): Promise<boolean> {
  const { header, geometry, refcounts, l1 } = meta
  const { clusterSize, blockEntries } = geometry
  if (
    header.version < 3 ||
    header.snapshotCount !== 0 ||
    header.bitmaps !== undefined ||
    header.cryptMethod !== 0 ||
    header.dataFile !== undefined ||
    l1.size === 0 ||
    fixedClusters + geometry.clusters(l1.size * tableEntryBytes) > blockEntries ||
    header.refcountTableOffset !== clusterSize ||
    header.refcountTableClusters !== 1 ||
    refcounts.blockOffset(0) !== 2 * clusterSize ||
    l1.offset !== fixedClusters * clusterSize
  ) {
    return false
  }
  // A torn write of the refcount table may leave any of these named: each must stay counted, by
  // itself or by the first block, which changes last.
  for (let index = 1; index < refcounts.tableSize; index++) {
    const offset = refcounts.blockOffset(index)
    const counter = refcounts.tableIndex(offset / clusterSize)
    if (offset !== 0 && counter !== index && counter !== 0) {
      return false
    }
  }
  return true
}

/**
 * Empties the image by rewriting its fixed tables. On disk, in this order, each step durable before
 * the next: the L1 table names nothing (all else is leaked), the refcount table names only the first
 * block, that block counts only the fixed tables, the file ends behind them.
 */
async function tryEmptyCompletely(meta: Qcow2Metadata): Promise<boolean> {
  await meta.flushL2()
  await meta.flushBlocks()
  if (!(await isSimple(meta))) {
    return false
  }
  const { file, geometry, refcounts, l1, blocks, allocator } = meta
  const { clusterSize } = geometry
  const l1Bytes = new Uint8Array(geometry.clusters(l1.size * tableEntryBytes) * clusterSize)
  const end = fixedClusters + l1Bytes.length / clusterSize
  // From here on nothing in memory may refer to the old tables: if the write fails in part, new data
  // must not be entered into a table that nothing on disk names any more.
  meta.l2.clear()
  l1.replace(l1.offset, l1Bytes.slice(0, l1.size * tableEntryBytes))
  try {
    await meta.event('l1_update')
    await meta.writeThrough(l1.offset, l1Bytes)
    await meta.event('empty_image_prepare')
    await dropOtherBlocks(meta)
    const block = await blocks.load(2 * clusterSize)
    try {
      block.bytes.fill(0)
      for (let cluster = 0; cluster < end; cluster++) {
        refcounts.format.add(block, cluster, 1)
      }
      blocks.markDirty(block)
    } finally {
      blocks.release(block)
    }
    allocator.reset()
    await meta.flushBlocks()
  } finally {
    await meta.overlap?.load()
  }
  await truncateNode(file, end * clusterSize, { exact: false, preallocation: 'off', zero: false })
  return true
}

async function dropOtherBlocks(meta: Qcow2Metadata): Promise<void> {
  const { geometry, refcounts, blocks, allocator, header } = meta
  const { clusterSize } = geometry
  const old = refcounts.table
  const others = [...old.keys()].filter((index) => index !== 0 && old[index] !== 0)
  if (others.length === 0) {
    return
  }
  const table = new Uint8Array(clusterSize)
  new DataView(table.buffer).setUint32(4, 2 * clusterSize)
  try {
    await meta.event('reftable_update')
    await meta.writeThrough(header.refcountTableOffset, table)
  } catch (error) {
    for (const index of others) {
      allocator.ban((old[index] ?? 0) / clusterSize, 1)
    }
    throw error
  }
  blocks.clear()
  refcounts.setTable(table)
}
