import { readPadded } from '../../../formatkit/index.js'
import type { ExtentSink, FlushPath, IoNode, MapPath, WritePlan } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import type { BlockContext, NewBlock } from './space.js'

/** What `commitWrite` needs to know of a block that `resolveWrite` took. */
interface Allocation {
  readonly index: number
  readonly block: NewBlock
}

/**
 * Requests of a dynamic disk: a block is there or reads as zeroes. Bitmaps are not looked at; they are
 * kept all ones for those who do.
 *
 * Order on disk: data, bitmap and footer are durable before the table entry of a new block is written,
 * which happens at a flush.
 */
export class DynamicPath implements MapPath, FlushPath {
  readonly mutex = new Mutex()
  readonly #owner: IoNode
  readonly #context: BlockContext
  readonly #ones: Uint8Array
  /** Blocks whose bitmap is known to be all ones, one bit each. */
  readonly #full = new Map<number, number>()

  constructor(owner: IoNode, context: BlockContext) {
    this.#owner = owner
    this.#context = context
    this.#ones = new Uint8Array(context.shape.bitmapBytes).fill(0xff)
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const { table, file, shape } = this.#context
    const { blockSize, bitmapBytes } = shape
    const end = offset + bytes
    let at = offset
    while (at < end) {
      const index = Math.floor(at / blockSize)
      const inside = at - index * blockSize
      const block = table.blockOffset(index)
      let next = Math.min(end, (index + 1) * blockSize)
      if (block !== undefined) {
        if (!out.data(next - at, file.node, block + bitmapBytes + inside, 0)) {
          return undefined
        }
      } else {
        for (let more = index + 1; next < end && table.blockOffset(more) === undefined; more++) {
          next = Math.min(end, (more + 1) * blockSize)
        }
        if (!out.zero(next - at)) {
          return undefined
        }
      }
      at = next
    }
    return undefined
  }

  resolveWrite(offset: number, bytes: number, flags: number, plan: WritePlan): Wait {
    const { table, file, shape, space } = this.#context
    const { blockSize, bitmapBytes } = shape
    const index = Math.floor(offset / blockSize)
    const inside = offset - index * blockSize
    const count = Math.min(bytes, blockSize - inside)
    const at = table.blockOffset(index)
    if (at !== undefined) {
      if (!this.#isFull(index)) {
        return this.#fillBitmap(index, at, offset, bytes, flags, plan)
      }
      plan.inPlace(count, file.node, at + bitmapBytes + inside)
      return undefined
    }
    if (!space.isPrepared) {
      return this.#prepare(offset, bytes, flags, plan)
    }
    const start = index * blockSize
    if (!plan.reserve(this.#owner.allocations, start, start + blockSize)) {
      return undefined
    }
    const block = space.take()
    const allocation: Allocation = { index, block }
    plan.allocate(
      count,
      file.node,
      block.offset + bitmapBytes + inside,
      inside,
      blockSize - inside - count,
      block.isZero,
      allocation,
    )
    return undefined
  }

  async #prepare(offset: number, bytes: number, flags: number, plan: WritePlan): Promise<void> {
    await this.mutex.run(() => this.#context.space.prepare())
    const wait = this.resolveWrite(offset, bytes, flags, plan)
    if (wait !== undefined) {
      await wait
    }
  }

  commitWrite(plan: WritePlan): Wait {
    const { index, block } = plan.token as Allocation
    const wait = this.#context.file.node.write(block.offset, this.#ones.length, this.#ones, 0, 0)
    if (wait === undefined) {
      this.#link(index, block)
      return undefined
    }
    return this.#linkAfter(wait, index, block)
  }

  async #linkAfter(wait: Promise<void>, index: number, block: NewBlock): Promise<void> {
    await wait
    this.#link(index, block)
  }

  #link(index: number, block: NewBlock): void {
    this.#context.table.set(index, block.offset)
    this.#setFull(index)
  }

  abortWrite(plan: WritePlan): Wait {
    this.#context.space.giveBack((plan.token as Allocation).block)
    return undefined
  }

  #isFull(index: number): boolean {
    return (((this.#full.get(index >>> 5) ?? 0) >>> (index & 31)) & 1) === 1
  }

  #setFull(index: number): void {
    this.#full.set(index >>> 5, (this.#full.get(index >>> 5) ?? 0) | (1 << (index & 31)))
  }

  /** Before the first write to a block all its sectors are marked as in use, for those who look at the bitmap. */
  async #fillBitmap(
    index: number,
    at: number,
    offset: number,
    bytes: number,
    flags: number,
    plan: WritePlan,
  ): Promise<void> {
    const { node } = this.#context.file
    const bitmap = new Uint8Array(this.#ones.length)
    const read = readPadded(node, at, bitmap)
    if (read !== undefined) {
      await read
    }
    if (bitmap.some((byte) => byte !== 0xff)) {
      const written = node.write(at, this.#ones.length, this.#ones, 0, 0)
      if (written !== undefined) {
        await written
      }
    }
    this.#setFull(index)
    const wait = this.resolveWrite(offset, bytes, flags, plan)
    if (wait !== undefined) {
      await wait
    }
  }

  /** New blocks and the footer behind them, then, once these are durable, the table. */
  flushToOs(): Wait {
    return this.#context.table.isDirty ? this.mutex.run(() => this.#writeBack()) : undefined
  }

  async #writeBack(): Promise<void> {
    const { table, space, file } = this.#context
    const changes = table.takeChanges()
    try {
      const footer = space.writeFooter()
      if (footer !== undefined) {
        await footer
      }
      const flushed = file.node.flush()
      if (flushed !== undefined) {
        await flushed
      }
    } catch (error) {
      table.restore(changes)
      throw error
    }
    await table.write(changes)
  }
}
