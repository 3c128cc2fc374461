import { ioError } from '../../../errors/index.js'
import type { BlockChild, BlockNode } from '../../../graph/index.js'
import {
  type ExtentSink,
  type FlushPath,
  type IoNode,
  type MapPath,
  maxLength,
  type WritePlan,
} from '../../../io/index.js'
import { Mutex, type Wait } from '../../../sched/index.js'
import { truncateTo } from './file-end.js'
import type { ImageTable } from './image-table.js'
import { tableEnd } from './layout.js'
import type { ClusterSpace, NewCluster } from './space.js'

export interface ParallelsParts {
  readonly file: BlockChild
  readonly table: ImageTable
  readonly space: ClusterSpace
}

export interface ImageParts extends ParallelsParts {
  readonly node: BlockNode
  /** Bytes. */
  readonly length: number
  /** Whether somebody did not close the image. */
  readonly unclean: boolean
  /** End of the format extension and what belongs to it, bytes; 0 if there is none or it was not read. */
  readonly extensionEnd: number
}

/** What `commitWrite` needs to know of a cluster that `resolveWrite` took. */
interface Allocation {
  readonly index: number
  readonly cluster: NewCluster
}

/**
 * Requests of an open image: a cluster is there or not.
 *
 * Order on disk: the mark that the image is in use is durable before anything is written; data is
 * durable before the table refers to it, which happens at a flush; the mark goes when the table is durable.
 */
export class ParallelsPath implements MapPath, FlushPath {
  readonly mutex = new Mutex()
  readonly #owner: IoNode
  readonly #parts: ParallelsParts
  /** The mark stands in the file, and it is ours. */
  #inUse = false
  /** The mark may stand in the file, since writing it failed. */
  #half = false

  constructor(owner: IoNode, parts: ParallelsParts) {
    this.#owner = owner
    this.#parts = parts
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const { table, file } = this.#parts
    const { clusterSize } = table
    const end = offset + bytes
    let at = offset
    while (at < end) {
      const index = Math.floor(at / clusterSize)
      const host = table.cluster(index)
      let next = Math.min(end, (index + 1) * clusterSize)
      if (host === 0) {
        for (let more = index + 1; next < end && table.cluster(more) === 0; more++) {
          next = Math.min(end, (more + 1) * clusterSize)
        }
        if (!out.unallocated(next - at)) {
          return undefined
        }
      } else {
        let hostEnd = host + clusterSize
        for (let more = index + 1; next < end && table.cluster(more) === hostEnd; more++) {
          next = Math.min(end, (more + 1) * clusterSize)
          hostEnd += clusterSize
        }
        if (hostEnd > maxLength) {
          throw ioError('EIO')
        }
        if (!out.data(next - at, file.node, host + at - index * clusterSize, 0)) {
          return undefined
        }
      }
      at = next
    }
    return undefined
  }

  resolveWrite(offset: number, bytes: number, flags: number, plan: WritePlan): Wait {
    const { table, file, space } = this.#parts
    const { clusterSize } = table
    if (!this.#inUse) {
      return this.#first(offset, bytes, flags, plan)
    }
    const index = Math.floor(offset / clusterSize)
    const inside = offset - index * clusterSize
    const count = Math.min(bytes, clusterSize - inside)
    const host = table.cluster(index)
    if (host !== 0) {
      // Guest data never goes over the table.
      if (host < tableEnd(table.entries) || host + clusterSize > maxLength) {
        throw ioError('EIO')
      }
      plan.inPlace(count, file.node, host + inside)
      return undefined
    }
    if (index >= table.entries) {
      throw ioError('EINVAL')
    }
    if (space.wantsRoom) {
      return this.#grow(offset, bytes, flags, plan)
    }
    space.checkRoom()
    const start = index * clusterSize
    if (!plan.reserve(this.#owner.allocations, start, start + clusterSize)) {
      return undefined
    }
    const cluster = space.take()
    const allocation: Allocation = { index, cluster }
    plan.allocate(
      count,
      file.node,
      cluster.offset + inside,
      inside,
      clusterSize - inside - count,
      cluster.isZero,
      allocation,
    )
    return undefined
  }

  async #first(offset: number, bytes: number, flags: number, plan: WritePlan): Promise<void> {
    await this.mutex.run(() => this.markInUse())
    const wait = this.resolveWrite(offset, bytes, flags, plan)
    if (wait !== undefined) {
      await wait
    }
  }

  async #grow(offset: number, bytes: number, flags: number, plan: WritePlan): Promise<void> {
    await this.mutex.run(() => this.#parts.space.grow())
    const wait = this.resolveWrite(offset, bytes, flags, plan)
    if (wait !== undefined) {
      await wait
    }
  }

  /** Before anything changes. Bitmaps in a format extension would be wrong from now on: they go. Holds {@link mutex}. */
  async markInUse(): Promise<void> {
    if (this.#inUse) {
      return
    }
    const { table, file, space } = this.#parts
    table.inUse = true
    if (table.extOffset !== 0) {
      table.dropExtension()
    }
    this.#half = true
    await table.store(file)
    this.#half = false
    space.prepare()
    this.#inUse = true
  }

  commitWrite(plan: WritePlan): Wait {
    const { index, cluster } = plan.token as Allocation
    this.#parts.table.set(index, cluster.offset)
    return undefined
  }

  abortWrite(plan: WritePlan): Wait {
    this.#parts.space.giveBack((plan.token as Allocation).cluster)
    return undefined
  }

  flushToOs(): Wait {
    return this.#parts.table.isDirty ? this.mutex.run(() => this.#writeBack()) : undefined
  }

  async #writeBack(): Promise<void> {
    const { table, file } = this.#parts
    const changes = table.takeChanges()
    try {
      await file.node.flush()
    } catch (error) {
      table.restore(changes)
      throw error
    }
    await table.write(changes)
  }

  /** Writes everything back, takes the mark away and cuts off what was preallocated. */
  finish(): Wait {
    return this.#inUse || this.#half ? this.mutex.run(() => this.#finish()) : undefined
  }

  async #finish(): Promise<void> {
    const { table, file, space } = this.#parts
    if (this.#half) {
      table.inUse = false
      await table.store(file)
      this.#half = false
    }
    if (!this.#inUse) {
      return
    }
    await this.#writeBack()
    await file.node.flush()
    const end = space.end
    if (file.node.length < end) {
      await truncateTo(file, end)
    }
    table.inUse = false
    await table.store(file)
    this.#inUse = false
    if (file.node.length > end) {
      await truncateTo(file, end)
    }
  }
}
