import {
  bitIsSet,
  bitRun,
  type CachedTable,
  highFirst,
  setBits,
  TableCache,
} from '../../../formatkit/index.js'
import type { ExtentSink, FlushPath, IoNode, MapPath, WritePlan } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import { sectorBytes } from './geometry.js'
import type { BlockContext, NewBlock } from './space.js'

/** Bytes of bitmaps kept, and least number of them. */
const cacheBytes = 2 << 20
const leastBitmaps = 16

/** What `commitWrite` needs to know. */
interface Allocation {
  readonly index: number
  /** Sectors of the block that are its own from now on. */
  readonly first: number
  readonly count: number
  /** Undefined if the block was there. */
  readonly block: NewBlock | undefined
}

/**
 * Requests of a differencing disk: of a block that is there, the sectors are its own whose bits are set
 * in its bitmap; all else is the parent's. Writing takes whole sectors and copies nothing.
 *
 * Order on disk, at a flush: data and footer, then bitmaps, then the table, each durable before the next.
 */
export class DifferencingPath implements MapPath, FlushPath {
  readonly mutex = new Mutex()
  readonly #owner: IoNode
  readonly #context: BlockContext
  readonly #bitmaps: TableCache
  /** There is no parent any more: new blocks are written as a whole. */
  #whole = false

  constructor(owner: IoNode, context: BlockContext) {
    this.#owner = owner
    this.#context = context
    const { bitmapBytes } = context.shape
    this.#bitmaps = new TableCache(
      context.file,
      bitmapBytes,
      Math.max(leastBitmaps, Math.floor(cacheBytes / bitmapBytes)),
    )
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const { table, shape } = this.#context
    const { blockSize } = shape
    const end = offset + bytes
    let at = offset
    while (at < end) {
      const index = Math.floor(at / blockSize)
      const block = table.blockOffset(index)
      let next = Math.min(end, (index + 1) * blockSize)
      if (block === undefined) {
        for (let more = index + 1; next < end && table.blockOffset(more) === undefined; more++) {
          next = Math.min(end, (more + 1) * blockSize)
        }
        if (!out.unallocated(next - at)) {
          return undefined
        }
      } else {
        const bitmap = this.#bitmaps.reach(block)
        if (bitmap === undefined) {
          return this.#readLater(block, at, end, out)
        }
        if (!this.#report(bitmap, at, next, out)) {
          return undefined
        }
      }
      at = next
    }
    return undefined
  }

  async #readLater(block: number, at: number, end: number, out: ExtentSink): Promise<void> {
    const { blockSize } = this.#context.shape
    const next = Math.min(end, (Math.floor(at / blockSize) + 1) * blockSize)
    const bitmap = await this.#load(block)
    let more: boolean
    try {
      more = this.#report(bitmap, at, next, out)
    } finally {
      this.#bitmaps.release(bitmap)
    }
    if (more && next < end) {
      const wait = this.resolveRead(next, end - next, out)
      if (wait !== undefined) {
        await wait
      }
    }
  }

  /** The bitmap of the block at `block`, pinned. Mutex not held. */
  async #load(block: number): Promise<CachedTable> {
    return this.#bitmaps.canLoad(block)
      ? await this.#bitmaps.load(block)
      : await this.mutex.run(() => this.#bitmaps.load(block))
  }

  /** Reports `[from, end)` of one block; false: no more is wanted. */
  #report(bitmap: CachedTable, from: number, end: number, out: ExtentSink): boolean {
    const { file, shape } = this.#context
    const { blockSize, bitmapBytes } = shape
    const start = from - (from % blockSize)
    const data = bitmap.offset + bitmapBytes
    let at = from
    while (at < end) {
      const sector = Math.floor((at - start) / sectorBytes)
      const limit = Math.ceil((end - start) / sectorBytes)
      const own = bitIsSet(bitmap.bytes, sector, highFirst)
      const run = bitRun(bitmap.bytes, sector, limit, highFirst)
      const next = Math.min(end, start + (sector + run) * sectorBytes)
      const more = own
        ? out.data(next - at, file.node, data + at - start, 0)
        : out.unallocated(next - at, file.node, data + at - start)
      if (!more) {
        return false
      }
      at = next
    }
    return true
  }

  resolveWrite(offset: number, bytes: number, flags: number, plan: WritePlan): Wait {
    const { table, file, shape, space } = this.#context
    const { blockSize, bitmapBytes } = shape
    if (!space.isPrepared) {
      return this.#prepare(offset, bytes, flags, plan)
    }
    const index = Math.floor(offset / blockSize)
    const start = index * blockSize
    const inside = offset - start
    const count = Math.min(bytes, blockSize - inside)
    const first = Math.floor(inside / sectorBytes)
    const at = table.blockOffset(index)
    if (at === undefined) {
      if (!plan.reserve(this.#owner.allocations, start, start + blockSize)) {
        return undefined
      }
      const block = space.take()
      const place = block.offset + bitmapBytes + inside
      if (this.#whole) {
        const allocation: Allocation = { index, first: 0, count: blockSize / sectorBytes, block }
        const tail = blockSize - inside - count
        plan.allocate(count, file.node, place, inside, tail, block.isZero, allocation)
      } else {
        const allocation: Allocation = { index, first, count: Math.ceil(count / sectorBytes), block }
        plan.allocate(count, file.node, place, 0, 0, block.isZero, allocation)
      }
      return undefined
    }
    const bitmap = this.#bitmaps.reach(at)
    if (bitmap === undefined) {
      return this.#writeLater(at, offset, bytes, flags, plan)
    }
    const run = bitRun(bitmap.bytes, first, first + Math.ceil(count / sectorBytes), highFirst)
    const part = Math.min(count, run * sectorBytes)
    const place = at + bitmapBytes + inside
    if (bitIsSet(bitmap.bytes, first, highFirst)) {
      plan.inPlace(part, file.node, place)
      return undefined
    }
    if (!plan.reserve(this.#owner.allocations, offset, offset + part)) {
      return undefined
    }
    const allocation: Allocation = { index, first, count: run, block: undefined }
    plan.allocate(part, file.node, place, 0, 0, false, allocation)
    return undefined
  }

  async #prepare(offset: number, bytes: number, flags: number, plan: WritePlan): Promise<void> {
    await this.mutex.run(() => this.#context.space.prepare())
    const wait = this.resolveWrite(offset, bytes, flags, plan)
    if (wait !== undefined) {
      await wait
    }
  }

  async #writeLater(
    at: number,
    offset: number,
    bytes: number,
    flags: number,
    plan: WritePlan,
  ): Promise<void> {
    const bitmap = await this.#load(at)
    let wait: Wait
    try {
      wait = this.resolveWrite(offset, bytes, flags, plan)
    } finally {
      this.#bitmaps.release(bitmap)
    }
    if (wait !== undefined) {
      await wait
    }
  }

  commitWrite(plan: WritePlan): Wait {
    const allocation = plan.token as Allocation
    const { block, index } = allocation
    if (!this.mutex.locked) {
      const at = block?.offset ?? this.#context.table.blockOffset(index)
      if (block !== undefined) {
        // A bitmap that stood there once is not this block's.
        this.#bitmaps.discard(block.offset)
      }
      if (at !== undefined && this.#bitmaps.canLoad(at)) {
        const bitmap = block === undefined ? this.#bitmaps.reach(at) : this.#bitmaps.create(at)
        if (bitmap !== undefined && !(bitmap instanceof Promise)) {
          this.#enter(bitmap, allocation)
          if (block !== undefined) {
            this.#bitmaps.release(bitmap)
          }
          return undefined
        }
      }
    }
    return this.mutex.run(() => this.#commitLater(allocation))
  }

  async #commitLater(allocation: Allocation): Promise<void> {
    const { block, index } = allocation
    const at = block?.offset ?? this.#context.table.blockOffset(index) ?? 0
    const bitmap = await (block === undefined ? this.#bitmaps.load(at) : this.#bitmaps.create(at))
    try {
      this.#enter(bitmap, allocation)
    } finally {
      this.#bitmaps.release(bitmap)
    }
  }

  #enter(bitmap: CachedTable, { index, first, count, block }: Allocation): void {
    setBits(bitmap.bytes, first, count, highFirst)
    this.#bitmaps.markDirty(bitmap)
    this.#bitmaps.orderAfterFlush()
    if (block !== undefined) {
      this.#context.table.set(index, block.offset)
    }
  }

  abortWrite(plan: WritePlan): Wait {
    const { block } = plan.token as Allocation
    if (block !== undefined) {
      this.#context.space.giveBack(block)
    }
    return undefined
  }

  flushToOs(): Wait {
    return this.#context.table.isDirty || this.#bitmaps.isDirty || this.mutex.locked
      ? this.mutex.run(() => this.writeBack())
      : undefined
  }

  /** Writes everything back. Mutex held. */
  async writeBack(): Promise<void> {
    const { table, space } = this.#context
    const changes = table.takeChanges()
    try {
      const footer = space.writeFooter()
      if (footer !== undefined) {
        await footer
      }
      const wait = changes.length === 0 ? this.#bitmaps.writeBack() : this.#bitmaps.flush()
      if (wait !== undefined) {
        await wait
      }
    } catch (error) {
      table.restore(changes)
      throw error
    }
    await table.write(changes)
  }

  /**
   * Makes all of every block the disk's own: what was the parent's becomes zeroes. Durable when done;
   * mutex held, nothing in flight.
   */
  async fillBlocks(): Promise<void> {
    const { table, file, shape } = this.#context
    const { blockSize, bitmapBytes } = shape
    const sectors = blockSize / sectorBytes
    for (let index = 0; index < table.entries; index++) {
      const block = table.blockOffset(index)
      if (block === undefined) {
        continue
      }
      const bitmap = await this.#bitmaps.load(block)
      try {
        for (let first = 0; first < sectors; ) {
          const run = bitRun(bitmap.bytes, first, sectors, highFirst)
          if (!bitIsSet(bitmap.bytes, first, highFirst)) {
            await file.node.writeZeroes(block + bitmapBytes + first * sectorBytes, run * sectorBytes, 0)
            setBits(bitmap.bytes, first, run, highFirst)
            this.#bitmaps.markDirty(bitmap)
            this.#bitmaps.orderAfterFlush()
          }
          first += run
        }
      } finally {
        this.#bitmaps.release(bitmap)
      }
    }
    this.#whole = true
    await this.writeBack()
    await file.node.flush()
  }

  /** Forgets all bitmaps: nothing is the disk's own any more. Mutex held, nothing in flight. */
  forget(): void {
    this.#bitmaps.clear()
  }
}
