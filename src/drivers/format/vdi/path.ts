import { blockError } from '../../../errors/index.js'
import { type BlockChild, truncateNode } from '../../../graph/index.js'
import {
  ExtentFlags,
  type ExtentSink,
  type FlushPath,
  type IoNode,
  type MapPath,
  maxLength,
  type WritePlan,
} from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import type { BlockMap } from './block-map.js'
import { headerBytes, ImageType, type VdiHeader } from './header.js'
import type { BlockSpace, NewBlock } from './space.js'

export interface VdiParts {
  readonly file: BlockChild
  readonly header: VdiHeader
  readonly map: BlockMap
  readonly space: BlockSpace
}

/** What `commitWrite` needs to know of a block that `resolveWrite` took. */
interface Allocation {
  readonly index: number
  readonly block: NewBlock
}

/**
 * Requests of an open image: a block is there or reads as zeroes.
 *
 * Order on disk: data and the header's count of blocks are durable before a map entry refers to a new
 * block, which happens at a flush.
 */
export class VdiPath implements MapPath, FlushPath {
  readonly mutex = new Mutex()
  readonly #owner: IoNode
  readonly #parts: VdiParts
  readonly #blockSize: number
  readonly #flags: number

  constructor(owner: IoNode, parts: VdiParts) {
    this.#owner = owner
    this.#parts = parts
    this.#blockSize = parts.header.blockSize
    // Blocks of a static image are there from the start: whether they hold anything the file below knows.
    this.#flags = parts.header.type === ImageType.static ? ExtentFlags.recurse : 0
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const { map, file, header } = this.#parts
    const size = this.#blockSize
    const end = offset + bytes
    let at = offset
    while (at < end) {
      const index = Math.floor(at / size)
      const block = map.block(index)
      let next = Math.min(end, (index + 1) * size)
      if (block === undefined) {
        for (let more = index + 1; next < end && map.block(more) === undefined; more++) {
          next = Math.min(end, (more + 1) * size)
        }
        if (!out.zero(next - at)) {
          return undefined
        }
      } else {
        const start = header.dataOffset + block * size
        for (let more = 1; next < end && map.block(index + more) === block + more; more++) {
          next = Math.min(end, (index + more + 1) * size)
        }
        if (!out.data(next - at, file.node, start + at - index * size, this.#flags)) {
          return undefined
        }
      }
      at = next
    }
    return undefined
  }

  resolveWrite(offset: number, bytes: number, flags: number, plan: WritePlan): Wait {
    const { map, file, header, space } = this.#parts
    const size = this.#blockSize
    const index = Math.floor(offset / size)
    const inside = offset - index * size
    const count = Math.min(bytes, size - inside)
    const found = map.block(index)
    if (found !== undefined) {
      plan.inPlace(count, file.node, header.dataOffset + found * size + inside)
      return undefined
    }
    if (!space.isPrepared) {
      return this.#prepare(offset, bytes, flags, plan)
    }
    // Before anything is held: whoever throws must hold nothing.
    if (header.dataOffset + (space.next + 1) * size > maxLength) {
      throw blockError('EFBIG', 'Image has no room for another block')
    }
    const start = index * size
    if (!plan.reserve(this.#owner.allocations, start, start + size)) {
      return undefined
    }
    const block = space.take()
    const host = header.dataOffset + block.number * size
    const allocation: Allocation = { index, block }
    plan.allocate(count, file.node, host + inside, inside, size - inside - count, block.isZero, allocation)
    return undefined
  }

  async #prepare(offset: number, bytes: number, flags: number, plan: WritePlan): Promise<void> {
    await this.mutex.run(() => this.#parts.space.prepare())
    const wait = this.resolveWrite(offset, bytes, flags, plan)
    if (wait !== undefined) {
      await wait
    }
  }

  commitWrite(plan: WritePlan): Wait {
    const { index, block } = plan.token as Allocation
    this.#parts.map.set(index, block.number)
    return undefined
  }

  abortWrite(plan: WritePlan): Wait {
    this.#parts.space.giveBack((plan.token as Allocation).block)
    return undefined
  }

  /** Where nothing is, zeroes are already; elsewhere they are written. */
  zero(offset: number, bytes: number, _flags: number, out: { bytes: number }): Wait {
    const { map } = this.#parts
    const size = this.#blockSize
    let end = offset
    while (end < offset + bytes && map.block(Math.floor(end / size)) === undefined) {
      end = (Math.floor(end / size) + 1) * size
    }
    out.bytes = Math.min(end, offset + bytes) - offset
    return undefined
  }

  /** Writes everything back. Nothing is in flight any more, so that the file can get its full length. */
  async finish(): Promise<void> {
    const { header, file, space } = this.#parts
    const end = header.dataOffset + space.next * this.#blockSize
    // Others expect whole blocks.
    if (file.node.length < end) {
      await truncateNode(file.node, end, { exact: false, preallocation: 'off', zero: false })
    }
    const wait = this.flushToOs()
    if (wait !== undefined) {
      await wait
    }
  }

  flushToOs(): Wait {
    return this.#parts.map.isDirty ? this.mutex.run(() => this.#writeBack()) : undefined
  }

  async #writeBack(): Promise<void> {
    const { map, header, file, space } = this.#parts
    const changes = map.takeChanges()
    // QEMU gives its next new block this number: it must not be one that is in use.
    header.allocated = space.next
    try {
      await file.node.write(0, headerBytes, header.bytes.slice(), 0, 0)
      await file.node.flush()
    } catch (error) {
      map.restore(changes)
      throw error
    }
    await map.write(changes)
  }
}
