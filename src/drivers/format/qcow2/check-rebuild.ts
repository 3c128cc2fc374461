import { codeOf, errnoError, ioError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'
import { type ReferenceCounts, setRefcountAt } from './check-counts.js'
import { flushRepair, writeRepair, writeRepairThrough } from './check-repair.js'
import { maxRefcountTableBytes, tableEntryBytes } from './constants.js'
import type { Qcow2Header } from './header.js'
import type { OverlapCheck } from './overlap.js'

/** Byte offset of the fields "refcount table offset" and "refcount table clusters" in the header. */
const headerTableField = 48

/**
 * Builds new refcount structures from counted references alone, in clusters that nothing refers to, and
 * enters them into the header last. The old ones stay as they are: they are leaked then.
 */
export class RefcountRebuild {
  readonly #header: Qcow2Header
  readonly #file: IoNode
  readonly #counts: ReferenceCounts
  readonly #overlap: OverlapCheck | undefined
  readonly #breathe: () => Promise<void>
  /** Offsets of the new blocks; 0 where there is none. Its length is a multiple of a cluster's entries. */
  #table: number[] = []

  /** @param counts is changed: it counts the new structures, too */
  constructor(
    header: Qcow2Header,
    file: IoNode,
    counts: ReferenceCounts,
    overlap: OverlapCheck | undefined,
    breathe: () => Promise<void>,
  ) {
    this.#header = header
    this.#file = file
    this.#counts = counts
    this.#overlap = overlap
    this.#breathe = breathe
  }

  /** @throws BlockError with the text to report; the image is as it was, but for unused clusters */
  async run(): Promise<void> {
    const { clusterSize } = this.#header
    await this.#writeBlocks(0, this.#counts.clusters)
    let offset: number
    let clusters: number
    for (;;) {
      clusters = Math.ceil((this.#table.length * tableEntryBytes) / clusterSize)
      if (clusters * clusterSize > maxRefcountTableBytes) {
        throw errnoError('EFBIG', 'ERROR allocating reftable')
      }
      const { first } = this.#counts.take(clusters, 0)
      offset = first * clusterSize
      // The blocks that count the table are out of date; writing them may make the table grow.
      if (!(await this.#writeBlocks(first, first + clusters))) {
        break
      }
    }
    await this.#step('ERROR writing reftable', async () => {
      const bytes = this.#tableBytes(clusters * clusterSize)
      // What counts as a block or table of the old structures is among the references, if it is sound.
      this.#overlap?.checkExcept(offset, bytes.length, 'refcount-block')
      await writeRepair(this.#file, offset, bytes)
      await flushRepair(this.#file)
    })
    await this.#step('ERROR setting reftable', async () => {
      const field = new Uint8Array(12)
      const view = new DataView(field.buffer)
      view.setUint32(0, Math.floor(offset / 0x100000000))
      view.setUint32(4, offset % 0x100000000)
      view.setUint32(8, clusters)
      await writeRepairThrough(this.#file, headerTableField, field)
    })
    this.#header.refcountTableOffset = offset
    this.#header.refcountTableClusters = clusters
  }

  async #step(text: string, body: () => Promise<void>): Promise<void> {
    try {
      await body()
    } catch (error) {
      throw errnoError(codeOf(error), text, { cause: error })
    }
  }

  #tableBytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    const view = new DataView(bytes.buffer)
    this.#table.forEach((offset, i) => {
      view.setUint32(i * tableEntryBytes, Math.floor(offset / 0x100000000))
      view.setUint32(i * tableEntryBytes + 4, offset % 0x100000000)
    })
    return bytes
  }

  /** Writes a block for every part of `[first, end)` where something is counted. Returns whether the table grew. */
  async #writeBlocks(first: number, end: number): Promise<boolean> {
    const { clusterSize, refcountOrder } = this.#header
    const counts = this.#counts
    const blockEntries = (clusterSize * 8) / 2 ** refcountOrder
    let grown = false
    let stop = end
    let free = 0
    for (let cluster = first; cluster < stop; ) {
      if (counts.isPageEmpty(cluster)) {
        cluster = counts.nextPage(cluster)
        continue
      }
      if (counts.get(cluster) === 0) {
        cluster++
        continue
      }
      const index = Math.floor(cluster / blockEntries)
      let offset = this.#table[index] ?? 0
      if (offset === 0) {
        // Not in the range of a block that has been written already.
        const taken = counts.take(1, Math.max(free, index * blockEntries))
        free = taken.gap
        stop = Math.max(stop, taken.first + 1)
        offset = taken.first * clusterSize
        grown = this.#growTable(index) || grown
        this.#table[index] = offset
      }
      await this.#step('ERROR writing refblock', () => this.#writeBlock(offset, index * blockEntries))
      await this.#breathe()
      cluster = (index + 1) * blockEntries
    }
    return grown
  }

  #growTable(index: number): boolean {
    if (index < this.#table.length) {
      return false
    }
    const perCluster = this.#header.clusterSize / tableEntryBytes
    const length = Math.ceil((index + 1) / perCluster) * perCluster
    if (length * tableEntryBytes > maxRefcountTableBytes) {
      throw errnoError('EFBIG', 'ERROR allocating refblock')
    }
    while (this.#table.length < length) {
      this.#table.push(0)
    }
    return true
  }

  async #writeBlock(offset: number, firstCluster: number): Promise<void> {
    const { clusterSize, refcountOrder } = this.#header
    const counts = this.#counts
    const blockEntries = (clusterSize * 8) / 2 ** refcountOrder
    if (!Number.isSafeInteger(offset + clusterSize)) {
      throw ioError('EFBIG')
    }
    const block = new Uint8Array(clusterSize)
    for (let i = 0; i < blockEntries; ) {
      if (counts.isPageEmpty(firstCluster + i)) {
        i = counts.nextPage(firstCluster + i) - firstCluster
        continue
      }
      const count = counts.get(firstCluster + i)
      if (count !== 0) {
        setRefcountAt(block, i, refcountOrder, count)
      }
      i++
    }
    this.#overlap?.checkExcept(offset, clusterSize, 'refcount-block')
    await writeRepair(this.#file, offset, block)
  }
}
