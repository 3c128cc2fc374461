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

export type CountPage = Uint8Array | Uint16Array | Float64Array

const maxByte = 255
const pageBits = 12
export const countPageClusters = 1 << pageBits

function pageIndex(cluster: number): number {
  return cluster < 0x80000000 ? cluster >>> pageBits : Math.floor(cluster / countPageClusters)
}

/**
 * References counted per host cluster, in pages that exist only where something was counted: memory
 * follows what is referenced, not what a file or header claims. A page has bytes until a count outgrows them.
 */
export class ReferenceCounts {
  readonly #pages = new Map<number, CountPage>()
  /** The page that was used last. */
  #recentIndex = -1
  #recent: CountPage = new Uint8Array(0)
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

  /** The counts of the page of `cluster`; undefined if nothing is counted there. */
  page(cluster: number): CountPage | undefined {
    return this.#pages.get(pageIndex(cluster))
  }

  /** Whether nothing is counted in the page of `cluster`. */
  isPageEmpty(cluster: number): boolean {
    return !this.#pages.has(pageIndex(cluster))
  }

  /** First cluster of the page behind the one that holds `cluster`. */
  nextPage(cluster: number): number {
    return (pageIndex(cluster) + 1) * countPageClusters
  }

  /** Forgets all references; the number of clusters stays. */
  clear(): void {
    this.#pages.clear()
    this.#recentIndex = -1
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
    const index = pageIndex(cluster)
    if (index !== this.#recentIndex) {
      this.#use(index)
    }
    const at = cluster % countPageClusters
    const count = this.#recent[at] ?? 0
    if (count === this.max) {
      return false
    }
    if (count === maxByte) {
      this.#widen(index)
    }
    this.#recent[at] = count + 1
    if (cluster >= this.clusters) {
      this.clusters = cluster + 1
    }
    return true
  }

  #use(index: number): void {
    let page = this.#pages.get(index)
    if (page === undefined) {
      page = new Uint8Array(countPageClusters)
      this.#pages.set(index, page)
    }
    this.#recentIndex = index
    this.#recent = page
  }

  /** Gives the page that was used last room for counts beyond a byte. */
  #widen(index: number): void {
    const page = this.#recent
    if (page instanceof Uint8Array) {
      this.#recent = this.#wide ? Float64Array.from(page) : Uint16Array.from(page)
      this.#pages.set(index, this.#recent)
    }
  }
}

/** The refcount at `index` of a refcount block with entries of `2 ** order` bits. */
export function refcountAt(block: Uint8Array, index: number, order: number): Refcount {
  if (order === 4) {
    return ((block[index * 2] ?? 0) << 8) | (block[index * 2 + 1] ?? 0)
  }
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
  /** The block that was used last. */
  #recentIndex = -1
  #recent: Uint8Array = new Uint8Array(0)
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
    return this.#isAbsent(Math.floor(cluster / this.#blockClusters))
  }

  #isAbsent(index: number): boolean {
    return (
      index * 8 >= this.#table.byteLength ||
      (this.#table.getUint32(index * 8) === 0 && this.#table.getUint32(index * 8 + 4) < 512)
    )
  }

  /** The refcount of `cluster`. Throws EIO if its block cannot be read. */
  get(cluster: number): Maybe<Refcount> {
    const index = Math.floor(cluster / this.#blockClusters)
    const at = cluster - index * this.#blockClusters
    if (index === this.#recentIndex) {
      return refcountAt(this.#recent, at, this.#order)
    }
    if (this.#isAbsent(index)) {
      return 0
    }
    const block = this.#blocks.get(index)
    if (block === undefined) {
      return this.#readThenGet(index, at)
    }
    this.#recentIndex = index
    this.#recent = block
    return refcountAt(block, at, this.#order)
  }

  /** {@link get} if the block of `cluster` has just been used and the refcount is no bigint, else -1. */
  peek(cluster: number): number {
    const index = Math.floor(cluster / this.#blockClusters)
    if (index !== this.#recentIndex) {
      return -1
    }
    const refcount = refcountAt(this.#recent, cluster - index * this.#blockClusters, this.#order)
    return typeof refcount === 'number' ? refcount : -1
  }

  /**
   * How many clusters from `cluster` on certainly have the refcounts in `page` from `from` on; 0 if the
   * block of `cluster` has not just been used.
   */
  equalRun(cluster: number, page: CountPage, from: number): number {
    const index = Math.floor(cluster / this.#blockClusters)
    if (index !== this.#recentIndex) {
      return 0
    }
    const block = this.#recent
    const order = this.#order
    const start = cluster - index * this.#blockClusters
    const most = Math.min(page.length - from, this.#blockClusters - start)
    let run = 0
    if (order === 4) {
      let at = start * 2
      while (run < most && (((block[at] ?? 0) << 8) | (block[at + 1] ?? 0)) === page[from + run]) {
        at += 2
        run++
      }
      return run
    }
    while (run < most && refcountAt(block, start + run, order) === page[from + run]) {
      run++
    }
    return run
  }

  /** Changes a refcount that {@link get} has just returned, and whose block therefore exists. */
  set(cluster: number, value: number): void {
    const index = Math.floor(cluster / this.#blockClusters)
    const block = this.#blocks.get(index)
    if (block === undefined) {
      throw new Error(`refcount block ${index} is not at hand`)
    }
    setRefcountAt(block, cluster % this.#blockClusters, this.#order, value)
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
    const block = (await this.#evict()) ?? new Uint8Array(clusterSize)
    const wait = readPadded(this.#file, Number(offset), block)
    if (wait !== undefined) {
      await wait
    }
    this.#blocks.set(index, block)
    this.#recentIndex = index
    this.#recent = block
    return refcountAt(block, at, this.#order)
  }

  /** Makes room for another block; returns the memory of the one that was given up, if there are enough. */
  async #evict(): Promise<Uint8Array | undefined> {
    if (this.#blocks.size < this.#maxBlocks) {
      return undefined
    }
    for (const [oldest, block] of this.#blocks) {
      await this.#writeBlock(oldest)
      this.#blocks.delete(oldest)
      if (this.#recentIndex === oldest) {
        this.#recentIndex = -1
      }
      return block
    }
    return undefined
  }
}
