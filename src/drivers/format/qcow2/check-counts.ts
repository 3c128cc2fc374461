import { ioError } from '../../../errors/index.js'
import type { IoNode } from '../../../io/index.js'
import type { Maybe } from '../../../sched/index.js'
import { readPadded } from './file-read.js'

/** A refcount; bigint only beyond 2^53. */
export type Refcount = number | bigint

/** Largest value of a refcount of `2 ** order` bits, as far as counting can get. */
function maxCount(order: number): number {
  return order < 5 ? 2 ** (2 ** order) - 1 : order === 5 ? 0xffffffff : Number.MAX_SAFE_INTEGER
}

type CountPage = Uint16Array | Float64Array

const pageBits = 12
export const countPageClusters = 1 << pageBits

/**
 * References counted per host cluster, in pages that exist only where something was counted: memory
 * follows what is referenced, not what a file or header claims.
 */
export class ReferenceCounts {
  readonly #pages = new Map<number, CountPage>()
  /** The page used last: what follows each other mostly lies in one. */
  #lastIndex = -1
  #lastPage: CountPage | undefined = undefined
  readonly #wide: boolean
  readonly max: number
  /** Clusters of the image; references just past the end of the file make it grow by one. */
  clusters: number

  /** @param order log2 of the refcount width, which bounds how far counting goes */
  constructor(order: number, clusters: number) {
    this.#wide = order > 4
    this.max = maxCount(order)
    this.clusters = clusters
  }

  get(cluster: number): number {
    return this.page(cluster)?.[cluster % countPageClusters] ?? 0
  }

  /** The counts of the page that holds `cluster`; undefined: nothing is counted in it. */
  page(cluster: number): CountPage | undefined {
    const index = Math.floor(cluster / countPageClusters)
    if (index !== this.#lastIndex) {
      this.#lastIndex = index
      this.#lastPage = this.#pages.get(index)
    }
    return this.#lastPage
  }

  /** Whether nothing is counted in the page of `cluster`. */
  isPageEmpty(cluster: number): boolean {
    return !this.#pages.has(Math.floor(cluster / countPageClusters))
  }

  /** First cluster of the page behind the one that holds `cluster`. */
  nextPage(cluster: number): number {
    return (Math.floor(cluster / countPageClusters) + 1) * countPageClusters
  }

  /** Forgets all references; the number of clusters stays. */
  clear(): void {
    this.#pages.clear()
    this.#lastIndex = -1
  }

  /**
   * Takes `count` clusters in a row that nothing refers to, from `from` on, growing the image if need be, and
   * counts one reference for each.
   *
   * @returns the first one, and the first gap that was seen, even if it was too small
   */
  take(count: number, from: number): { first: number; gap: number } {
    let run = 0
    let gap = -1
    let at = from
    for (; at < this.clusters && run < count; at++) {
      if (this.get(at) !== 0) {
        run = 0
      } else {
        run++
        gap = gap < 0 ? at : gap
      }
    }
    const first = at - run
    for (let cluster = first; cluster < first + count; cluster++) {
      this.add(cluster)
    }
    return { first, gap: gap < 0 ? from : gap }
  }

  /** Counts one more reference; false if the count is at its maximum. */
  add(cluster: number): boolean {
    let page = this.page(cluster)
    if (page === undefined) {
      page = this.#wide ? new Float64Array(countPageClusters) : new Uint16Array(countPageClusters)
      this.#pages.set(this.#lastIndex, page)
      this.#lastPage = page
    }
    const at = cluster % countPageClusters
    const count = page[at] ?? 0
    if (count === this.max) {
      return false
    }
    page[at] = count + 1
    if (cluster >= this.clusters) {
      this.clusters = cluster + 1
    }
    return true
  }
}

/** The refcount at `index` of a refcount block with entries of `2 ** order` bits. */
export function refcountAt(block: Uint8Array, index: number, order: number): Refcount {
  if (order < 3) {
    const bits = 1 << order
    const perByte = 8 >> order
    const byte = block[Math.floor(index / perByte)] ?? 0
    return (byte >> ((index % perByte) * bits)) & ((1 << bits) - 1)
  }
  const bytes = 1 << (order - 3)
  let value = 0
  for (let at = index * bytes; at < (index + 1) * bytes; at++) {
    value = value * 256 + (block[at] ?? 0)
  }
  if (value <= Number.MAX_SAFE_INTEGER) {
    return value
  }
  return new DataView(block.buffer, block.byteOffset).getBigUint64(index * 8)
}

/** Sets the refcount at `index` of a refcount block with entries of `2 ** order` bits. */
export function setRefcountAt(block: Uint8Array, index: number, order: number, value: number): void {
  if (order < 3) {
    const bits = 1 << order
    const perByte = 8 >> order
    const at = Math.floor(index / perByte)
    const shift = (index % perByte) * bits
    const mask = ((1 << bits) - 1) << shift
    block[at] = ((block[at] ?? 0) & ~mask) | (value << shift)
    return
  }
  const bytes = 1 << (order - 3)
  let rest = value
  for (let at = (index + 1) * bytes - 1; at >= index * bytes; at--) {
    block[at] = rest % 256
    rest = Math.floor(rest / 256)
  }
}

/** Bytes of refcount blocks kept in memory. */
const cacheBytes = 4 * 1024 * 1024

/**
 * The refcounts as the image stores them, read past any cache of the driver. Every lookup is
 * synchronous when the block is at hand.
 */
export class StoredRefcounts {
  readonly #file: IoNode
  readonly #table: DataView
  readonly #clusterBits: number
  readonly #order: number
  readonly #blocks = new Map<number, Uint8Array>()
  /** Table indices of blocks that differ from the file. */
  readonly #dirty = new Set<number>()
  readonly #maxBlocks: number
  readonly #blockClusters: number
  /** The block used last and its first cluster. */
  #lastBlock: Uint8Array | undefined = undefined
  #lastFirst = 0
  /** log2 of the refcounts in a block. */
  readonly blockBits: number
  /** Called once, with the table index and the offset, for the first block that is not cluster aligned. */
  readonly #onUnaligned: (index: number, offset: bigint) => void
  #reported = false

  /** @param table the refcount table as stored */
  constructor(
    file: IoNode,
    table: Uint8Array,
    clusterBits: number,
    order: number,
    onUnaligned: (index: number, offset: bigint) => void,
  ) {
    this.#file = file
    this.#table = new DataView(table.buffer, table.byteOffset, table.byteLength)
    this.#clusterBits = clusterBits
    this.#order = order
    this.blockBits = clusterBits - (order - 3)
    this.#blockClusters = 2 ** this.blockBits
    this.#maxBlocks = Math.max(2, cacheBytes >> clusterBits)
    this.#onUnaligned = onUnaligned
  }

  /** Entries of the refcount table. */
  get tableSize(): number {
    return this.#table.byteLength / 8
  }

  /** The table entry at `index`, all 64 bits. */
  entry(index: number): bigint {
    return this.#table.getBigUint64(index * 8)
  }

  /** Whether the table has no block for `cluster`: its refcount is 0 then. */
  isBlockAbsent(cluster: number): boolean {
    const index = Math.floor(cluster / this.#blockClusters)
    return (
      index >= this.tableSize ||
      (this.#table.getUint32(index * 8) === 0 && this.#table.getUint32(index * 8 + 4) < 512)
    )
  }

  /** The refcount of `cluster`. Throws EIO if its block cannot be read. */
  get(cluster: number): Maybe<Refcount> {
    const at = cluster - this.#lastFirst
    const last = this.#lastBlock
    if (last !== undefined && at >= 0 && at < this.#blockClusters) {
      return this.#order === 4
        ? ((last[2 * at] as number) << 8) | (last[2 * at + 1] as number)
        : refcountAt(last, at, this.#order)
    }
    if (this.isBlockAbsent(cluster)) {
      return 0
    }
    const index = Math.floor(cluster / this.#blockClusters)
    const block = this.#blocks.get(index)
    if (block === undefined) {
      return this.#readThenGet(index, cluster - index * this.#blockClusters)
    }
    this.#lastBlock = block
    this.#lastFirst = index * this.#blockClusters
    return refcountAt(block, cluster - this.#lastFirst, this.#order)
  }

  /**
   * Whether the refcounts of a whole page from `first` on, whose first one {@link get} has just returned, are
   * these: the number of clusters up to the last one in use. -1: they are not, or it takes a closer look.
   */
  usedIfEqual(first: number, counts: ArrayLike<number>): number {
    const block = this.#lastBlock
    const start = first - this.#lastFirst
    if (
      block === undefined ||
      this.#order !== 4 ||
      start < 0 ||
      start + countPageClusters > this.#blockClusters
    ) {
      return -1
    }
    let used = 0
    for (let i = 0, at = 2 * start; i < countPageClusters; i++, at += 2) {
      const refcount = ((block[at] as number) << 8) | (block[at + 1] as number)
      if (refcount !== counts[i]) {
        return -1
      }
      if (refcount !== 0) {
        used = i + 1
      }
    }
    return used
  }

  /** Changes a refcount that {@link get} has just returned, and whose block therefore exists. */
  set(cluster: number, value: number): void {
    const index = Math.floor(cluster / 2 ** this.blockBits)
    const block = this.#blocks.get(index)
    if (block === undefined) {
      throw new Error(`refcount block ${index} is not at hand`)
    }
    setRefcountAt(block, cluster % 2 ** this.blockBits, this.#order, value)
    this.#dirty.add(index)
  }

  /** Makes the changes durable. */
  async flush(): Promise<void> {
    if (this.#dirty.size === 0) {
      return
    }
    for (const index of [...this.#dirty]) {
      await this.#writeBlock(index)
    }
    const wait = this.#file.flush()
    if (wait !== undefined) {
      await wait
    }
  }

  async #writeBlock(index: number): Promise<void> {
    const block = this.#blocks.get(index)
    if (block === undefined || !this.#dirty.has(index)) {
      return
    }
    const wait = this.#file.write(Number(this.entry(index) & ~511n), block.length, block, 0, 0)
    if (wait !== undefined) {
      await wait
    }
    this.#dirty.delete(index)
  }

  async #readThenGet(index: number, at: number): Promise<Refcount> {
    const offset = this.entry(index) & ~511n
    const clusterSize = 2 ** this.#clusterBits
    if (offset % BigInt(clusterSize) !== 0n) {
      if (!this.#reported) {
        this.#reported = true
        this.#onUnaligned(index, offset)
      }
      throw ioError('EIO')
    }
    const block = new Uint8Array(clusterSize)
    const wait = readPadded(this.#file, Number(offset), block)
    if (wait !== undefined) {
      await wait
    }
    if (this.#blocks.size >= this.#maxBlocks) {
      for (const oldest of this.#blocks.keys()) {
        await this.#writeBlock(oldest)
        this.#blocks.delete(oldest)
        this.#lastBlock = undefined
        break
      }
    }
    this.#blocks.set(index, block)
    this.#lastBlock = block
    this.#lastFirst = index * this.#blockClusters
    return refcountAt(block, at, this.#order)
  }
}
