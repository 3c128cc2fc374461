import { blockError, codeOf, errnoError, ioError } from '../../../errors/index.js'
import { TimeSlice } from '../../../sched/index.js'
import { setRefcountAt } from './check-counts.js'
import { hex } from './check-walk.js'
import { maxRefcountTableBytes, tableEntryBytes } from './constants.js'
import type { Qcow2Metadata } from './metadata.js'

/** Gives an image refcounts of another width, in new blocks and a new table. Metadata lock held. */
export class RefcountWidth {
  readonly #meta: Qcow2Metadata
  readonly #progress: (done: number, total: number) => void
  readonly #slice = new TimeSlice()
  /** Offsets of the new blocks; 0 where nothing is counted. */
  #table: number[] = []
  #tableOffset = 0
  #tableBytes = 0
  #order = 0

  constructor(meta: Qcow2Metadata, progress: (done: number, total: number) => void) {
    this.#meta = meta
    this.#progress = progress
  }

  get #blockEntries(): number {
    return (this.#meta.geometry.clusterSize * 8) / 2 ** this.#order
  }

  /**
   * @param order log2 of the new width in bits
   * @throws EINVAL if a refcount does not fit, ENOTSUP if the table would become too large; the image
   *   is as it was then
   */
  async change(order: number): Promise<void> {
    this.#order = order
    try {
      const walks = await this.#allocate()
      await this.#write(walks)
      await this.#switch()
    } catch (error) {
      await this.#free(this.#table, this.#tableOffset, this.#tableBytes)
      throw error
    }
  }

  /**
   * Allocates the new structures. They are counted like all else, which may need further blocks, so
   * that this is repeated until nothing is missing. Returns how often.
   */
  async #allocate(): Promise<number> {
    const { allocator, refcounts } = this.#meta
    for (let walk = 0; ; walk++) {
      let missing = false
      for (let index = 0; index * this.#blockEntries < refcounts.clusters; index++) {
        this.#report(walk, Math.max(walk + 2, 3), index)
        if (!(await this.#isUsed(index))) {
          continue
        }
        this.#growTable(index)
        if (this.#table[index] === 0) {
          this.#table[index] = await step('Failed to allocate refblock', () => allocator.allocate(1))
          missing = true
        }
      }
      if (!missing) {
        return walk + 1
      }
      await allocator.free(this.#tableOffset, this.#tableBytes, 'never', false)
      this.#tableBytes = 0
      const bytes = this.#table.length * tableEntryBytes
      this.#tableOffset = await step('Failed to allocate the new reftable', () =>
        allocator.allocate(this.#meta.geometry.clusters(bytes)),
      )
      this.#tableBytes = bytes
    }
  }

  #report(walk: number, walks: number, index: number): void {
    const blocks = Math.ceil(this.#meta.refcounts.clusters / this.#blockEntries)
    this.#progress(walk * blocks + index, walks * blocks)
  }

  /** Whether anything that new block `index` is to count has a refcount. Throws if one does not fit. */
  async #isUsed(index: number): Promise<boolean> {
    let used = false
    const bits = 2 ** this.#order
    await this.#eachRefcount(index, (cluster, refcount) => {
      used = true
      if (bits < 53 && refcount >= 2 ** bits) {
        throw blockError(
          'EINVAL',
          `Cannot decrease refcount entry width to ${bits} bits: Cluster at offset ` +
            `${hex(cluster * this.#meta.geometry.clusterSize)} has a refcount of ${refcount}`,
        )
      }
    })
    return used
  }

  /** Calls `take` for every cluster with a refcount that new block `index` is to count. */
  async #eachRefcount(index: number, take: (cluster: number, refcount: number) => void): Promise<void> {
    const { refcounts, geometry, blocks } = this.#meta
    const old = geometry.blockEntries
    const end = Math.min((index + 1) * this.#blockEntries, refcounts.clusters)
    for (let at = index * this.#blockEntries; at < end; ) {
      const stop = Math.min(end, at - (at % old) + old)
      const offset = this.#oldBlock(refcounts.tableIndex(at))
      if (offset !== 0) {
        const block = await step('Failed to retrieve refblock', () => blocks.load(offset))
        blocks.release(block)
        for (let cluster = at; cluster < stop; cluster++) {
          const refcount = refcounts.format.get(block, cluster % old)
          if (refcount !== 0) {
            take(cluster, refcount)
          }
        }
        const wait = this.#slice.breathe()
        if (wait !== undefined) {
          await wait
        }
      }
      at = stop
    }
  }

  #oldBlock(index: number): number {
    try {
      return this.#meta.refcounts.blockOffset(index)
    } catch (error) {
      throw blockError('EIO', 'Image is corrupt (unaligned refblock offset)', { cause: error })
    }
  }

  #growTable(index: number): void {
    const perCluster = this.#meta.geometry.clusterSize / tableEntryBytes
    const length = Math.ceil((index + 1) / perCluster) * perCluster
    if (length * tableEntryBytes > maxRefcountTableBytes) {
      throw blockError(
        'ENOTSUP',
        'This operation would make the refcount table grow beyond the maximum size supported by QEMU, aborting',
      )
    }
    while (this.#table.length < length) {
      this.#table.push(0)
    }
  }

  /** Writes the new blocks and the table; nothing refers to them yet. */
  async #write(walks: number): Promise<void> {
    const { file, geometry } = this.#meta
    const { clusterSize } = geometry
    for (const [index, offset] of this.#table.entries()) {
      this.#report(walks, walks + 1, index)
      if (offset === 0) {
        continue
      }
      const block = new Uint8Array(clusterSize)
      await this.#eachRefcount(index, (cluster, refcount) => {
        setRefcountAt(block, cluster % this.#blockEntries, this.#order, refcount)
      })
      await step('Failed to write refblock', async () => {
        const wait = file.write(offset, clusterSize, block, 0, 0)
        if (wait !== undefined) {
          await wait
        }
      })
    }
    const bytes = new Uint8Array(this.#tableBytes)
    const view = new DataView(bytes.buffer)
    this.#table.forEach((offset, i) => {
      view.setUint32(i * tableEntryBytes, Math.floor(offset / 0x100000000))
      view.setUint32(i * tableEntryBytes + 4, offset % 0x100000000)
    })
    await step('Failed to write the new reftable', () => this.#meta.writeThrough(this.#tableOffset, bytes))
    this.#report(walks + 1, walks + 1, 0)
  }

  /** Makes the header name the new structures, and frees the old ones. */
  async #switch(): Promise<void> {
    const meta = this.#meta
    const { header, geometry, refcounts } = meta
    await meta.flushL2()
    await step('Failed to flush the refblock cache', () => meta.flushBlocks())
    const { refcountOrder, refcountTableOffset, refcountTableClusters } = header
    header.refcountOrder = this.#order
    header.refcountTableOffset = this.#tableOffset
    header.refcountTableClusters = geometry.clusters(this.#tableBytes)
    try {
      await step('Failed to update the qcow2 header', () => meta.writeHeader())
    } catch (error) {
      Object.assign(header, { refcountOrder, refcountTableOffset, refcountTableClusters })
      throw error
    }
    const oldTable = [...refcounts.table]
    meta.blocks.clear()
    refcounts.table = Float64Array.from(this.#table)
    meta.refreshGeometry()
    this.#table = []
    this.#tableBytes = 0
    await meta.overlap?.load()
    await this.#free(oldTable, refcountTableOffset, refcountTableClusters * geometry.clusterSize)
    await meta.flushBlocks()
  }

  async #free(table: readonly number[], offset: number, bytes: number): Promise<void> {
    const { allocator, geometry, blocks } = this.#meta
    for (const block of table) {
      if (block !== 0) {
        blocks.discard(block)
        await allocator.free(block, geometry.clusterSize, 'other', false)
      }
    }
    await allocator.free(offset, bytes, 'other', false)
  }
}

async function step<T>(text: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body()
  } catch (error) {
    if (codeOf(error) === 'ECANCELED') {
      throw ioError('ECANCELED')
    }
    throw errnoError(codeOf(error), text, { cause: error })
  }
}
