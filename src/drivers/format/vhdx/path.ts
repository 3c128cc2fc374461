import { ioError } from '../../../errors/index.js'
import { type BlockChild, hasZeroInit, truncateNode } from '../../../graph/index.js'
import type { ExtentSink, FlushPath, IoNode, MapPath, RangeResult, WritePlan } from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import type { Bat } from './bat.js'
import type { Headers } from './headers.js'
import { BlockState, mebibyte } from './layout.js'
import type { Log } from './log.js'
import type { DiskParameters } from './metadata.js'

export interface PathContext {
  readonly owner: IoNode
  readonly file: BlockChild
  readonly headers: Headers
  readonly log: Log
  readonly bat: Bat
  readonly disk: DiskParameters
}

interface Allocation {
  readonly entry: number
  readonly place: number
}

/**
 * Requests of a disk. New blocks are entered into the table in memory; a flush makes them durable and
 * then writes the table through the log.
 */
export class VhdxPath implements MapPath, FlushPath {
  readonly #context: PathContext
  readonly #mutex = new Mutex()
  readonly #spare: number[] = []
  /** The headers say that the disk has changed. */
  #announced = false

  constructor(context: PathContext) {
    this.#context = context
  }

  /** Index in the table: a bitmap entry follows each chunk of blocks. */
  #entry(block: number): number {
    return block + Math.floor(block / this.#context.disk.ratio)
  }

  /** Whether the block is in the file; if not it reads as zeroes. Throws EIO for states that make no sense here. */
  #isPresent(entry: number): boolean {
    const state = this.#context.bat.state(entry)
    if (state === BlockState.fullyPresent) {
      return true
    }
    if (state <= BlockState.unmapped || state === BlockState.unmappedOld) {
      return false
    }
    throw ioError('EIO', { node: this.#context.owner.nodeName })
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const { bat, disk, file } = this.#context
    const end = offset + bytes
    let at = offset
    while (at < end) {
      const block = Math.floor(at / disk.blockBytes)
      const entry = this.#entry(block)
      const next = Math.min(end, (block + 1) * disk.blockBytes)
      const more = this.#isPresent(entry)
        ? out.data(next - at, file.node, bat.place(entry) + at - block * disk.blockBytes, 0)
        : out.zero(next - at)
      if (!more) {
        return undefined
      }
      at = next
    }
    return undefined
  }

  resolveWrite(offset: number, bytes: number, _flags: number, plan: WritePlan): Wait {
    const { bat, disk, file } = this.#context
    if (!this.#announced) {
      return this.#announce(offset, bytes, plan)
    }
    const block = Math.floor(offset / disk.blockBytes)
    const entry = this.#entry(block)
    const inside = offset - block * disk.blockBytes
    const count = Math.min(bytes, disk.blockBytes - inside)
    if (this.#isPresent(entry)) {
      const place = bat.place(entry)
      if (place < mebibyte) {
        throw ioError('EFAULT', { node: this.#context.owner.nodeName })
      }
      plan.inPlace(count, file.node, place + inside)
      return undefined
    }
    const start = block * disk.blockBytes
    if (!plan.reserve(this.#context.owner.allocations, start, start + disk.blockBytes)) {
      return undefined
    }
    return this.#allocate(entry, inside, count, plan)
  }

  async #allocate(entry: number, inside: number, count: number, plan: WritePlan): Promise<void> {
    const { owner, file, disk } = this.#context
    const lock = plan.lock
    const spare = this.#spare.pop()
    let place: number
    try {
      place = spare ?? (await this.#mutex.run(() => this.#grow()))
    } catch (error) {
      if (lock !== undefined) {
        owner.allocations.release(lock)
        plan.lock = undefined
      }
      throw error
    }
    const isZero = spare === undefined && hasZeroInit(file.node)
    const token: Allocation = { entry, place }
    plan.allocate(count, file.node, place + inside, inside, disk.blockBytes - inside - count, isZero, token)
  }

  /** Makes the file one block longer; returns where the block is. */
  async #grow(): Promise<number> {
    const { file, disk } = this.#context
    const place = Math.ceil(file.node.length / mebibyte) * mebibyte
    await truncateNode(file.node, place + disk.blockBytes, {
      exact: false,
      preallocation: 'off',
      zero: false,
    })
    return place
  }

  commitWrite(plan: WritePlan): Wait {
    const { entry, place } = plan.token as Allocation
    this.#context.bat.set(entry, BlockState.fullyPresent, place)
    return undefined
  }

  abortWrite(plan: WritePlan): Wait {
    this.#spare.push((plan.token as Allocation).place)
    return undefined
  }

  /** What is not there need not be zeroed. */
  zero(offset: number, bytes: number, _flags: number, out: RangeResult): Wait {
    const { disk } = this.#context
    const block = Math.floor(offset / disk.blockBytes)
    out.bytes = this.#isPresent(this.#entry(block))
      ? 0
      : Math.min(bytes, (block + 1) * disk.blockBytes - offset)
    return undefined
  }

  /** Before the first change the headers get new identifiers: other files know the disk by them. */
  async #announce(offset: number, bytes: number, plan: WritePlan): Promise<void> {
    const { headers } = this.#context
    await this.#mutex.run(async () => {
      if (!this.#announced) {
        await headers.update({ dataWriteGuid: headers.newGuid() })
        this.#announced = true
      }
    })
    await this.resolveWrite(offset, bytes, 0, plan)
  }

  flushToOs(): Wait {
    return this.#context.bat.isDirty ? this.#mutex.run(() => this.#writeBack()) : undefined
  }

  async #writeBack(): Promise<void> {
    const { bat, log } = this.#context
    const changes = bat.takeChanges()
    try {
      await log.write(changes)
    } catch (error) {
      bat.restore(changes)
      throw error
    }
  }

  /** Leaves a file that needs no replay. */
  async close(): Promise<void> {
    await this.flushToOs()
    await this.#mutex.run(() => this.#context.log.clear())
  }
}
