import { ioError } from '../../../errors/index.js'
import type { BlockChild } from '../../../graph/index.js'
import type { ExtentSink, FlushPath, IoNode, MapPath, RangeResult, WritePlan } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { Bat } from './bat.js'
import type { DiskChanges } from './changes.js'
import { BlockState, mebibyte } from './layout.js'
import type { DiskParameters } from './metadata.js'

export interface PathContext {
  readonly owner: IoNode
  readonly file: BlockChild
  readonly bat: Bat
  readonly disk: DiskParameters
  readonly changes: DiskChanges
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
    const { bat, disk, file, changes } = this.#context
    if (!changes.isAnnounced) {
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
    const { file, disk } = this.#context
    const { place, isZero } = await takeReserved(this.#context, plan)
    const token: Allocation = { entry, place }
    plan.allocate(count, file.node, place + inside, inside, disk.blockBytes - inside - count, isZero, token)
  }

  commitWrite(plan: WritePlan): Wait {
    const { entry, place } = plan.token as Allocation
    this.#context.bat.set(entry, BlockState.fullyPresent, place)
    return undefined
  }

  abortWrite(plan: WritePlan): Wait {
    this.#context.changes.giveBack((plan.token as Allocation).place)
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

  async #announce(offset: number, bytes: number, plan: WritePlan): Promise<void> {
    await this.#context.changes.announce()
    await this.resolveWrite(offset, bytes, 0, plan)
  }

  flushToOs(): Wait {
    const { changes } = this.#context
    return changes.isDirty ? changes.mutex.run(() => changes.writeBack()) : undefined
  }
}

/** Room for the block that `plan` has reserved; the reservation ends if there is none. */
export async function takeReserved(
  { changes, disk, owner }: PathContext,
  plan: WritePlan,
): Promise<{ readonly place: number; readonly isZero: boolean }> {
  const { lock } = plan
  try {
    return await changes.takeBlock(disk.blockBytes)
  } catch (error) {
    if (lock !== undefined) {
      owner.allocations.release(lock)
      plan.lock = undefined
    }
    throw error
  }
}
