import { ioError } from '../../../errors/index.js'
import type { CachedTable } from '../../../formatkit/index.js'
import {
  ExtentFlags,
  type ExtentSink,
  type IoNode,
  type MapPath,
  maxLength,
  type WritePlan,
} from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { CompressedClusters } from './compressed.js'
import { compressedCookie, compressedFlag } from './entry.js'
import { sectorBytes } from './header.js'
import type { NewSpace } from './space.js'
import type { QcowTables } from './tables.js'

/** What `commitWrite` needs to know of clusters that `resolveWrite` took. */
interface Allocation {
  /** Guest offset of the first cluster. */
  readonly start: number
  readonly count: number
  readonly space: NewSpace
}

/**
 * Requests of an open image: a cluster is there, compressed or not, or the backing file shows through.
 * A cluster that was compressed gets another place when it is written to.
 */
export class QcowPath implements MapPath {
  readonly #owner: IoNode
  readonly #tables: QcowTables
  readonly #compressed: CompressedClusters
  readonly #clusterBits: number
  readonly #flags: number

  constructor(owner: IoNode, tables: QcowTables, compressed: CompressedClusters, encrypted: boolean) {
    this.#owner = owner
    this.#tables = tables
    this.#compressed = compressed
    this.#clusterBits = Math.log2(tables.clusterSize)
    this.#flags = encrypted ? ExtentFlags.encoded : 0
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const { span, l2 } = this.#tables
    const end = offset + bytes
    let at = offset
    while (at < end) {
      const place = this.#tables.tableOffset(at)
      const next = Math.min(end, (Math.floor(at / span) + 1) * span)
      if (place === 0) {
        if (!out.unallocated(next - at)) {
          return undefined
        }
      } else {
        const table = l2.reach(place)
        if (table === undefined) {
          return this.#readLater(place, at, end, out)
        }
        if (!this.#report(table, at, next, out)) {
          return undefined
        }
      }
      at = next
    }
    return undefined
  }

  async #readLater(place: number, at: number, end: number, out: ExtentSink): Promise<void> {
    const { span, l2 } = this.#tables
    const next = Math.min(end, (Math.floor(at / span) + 1) * span)
    const table = await this.#tables.load(place)
    let more: boolean
    try {
      more = this.#report(table, at, next, out)
    } finally {
      l2.release(table)
    }
    if (more && next < end) {
      const wait = this.resolveRead(next, end - next, out)
      if (wait !== undefined) {
        await wait
      }
    }
  }

  /** Reports `[at, end)`, which one table maps; false: no more is wanted. */
  #report(table: CachedTable, from: number, end: number, out: ExtentSink): boolean {
    const { clusterSize, file } = this.#tables
    const { view } = table
    let index = this.#tables.indexOf(from)
    let at = from
    while (at < end) {
      const high = view.getUint32(index * 8)
      const low = view.getUint32(index * 8 + 4)
      const inside = at % clusterSize
      let next = Math.min(end, at - inside + clusterSize)
      index++
      let more: boolean
      if (high >= compressedFlag) {
        const cookie = compressedCookie(high, low, this.#clusterBits)
        if (cookie === undefined) {
          throw ioError('EIO')
        }
        more = out.encoded(next - at, cookie)
      } else if (high === 0 && low === 0) {
        while (next < end && placeOf(view, index) === 0) {
          next = Math.min(end, next + clusterSize)
          index++
        }
        more = out.unallocated(next - at)
      } else {
        const host = this.#hostOf(high, low)
        let hostEnd = host + clusterSize
        while (next < end && placeOf(view, index) === hostEnd) {
          next = Math.min(end, next + clusterSize)
          hostEnd += clusterSize
          index++
        }
        more = out.data(next - at, file.node, host + inside, this.#flags)
      }
      if (!more) {
        return false
      }
      at = next
    }
    return true
  }

  /** Place of a cluster. @throws EIO if it is none */
  #hostOf(high: number, low: number): number {
    const host = high * 0x1_0000_0000 + low
    if (host % sectorBytes !== 0 || host > maxLength - 2 * this.#tables.span) {
      throw ioError('EIO')
    }
    return host
  }

  resolveWrite(offset: number, bytes: number, flags: number, plan: WritePlan): Wait {
    const { clusterSize, file, span, space } = this.#tables
    const table = this.#tables.writable(offset)
    if (table === undefined) {
      return this.#prepare(offset, bytes, flags, plan)
    }
    const { view } = table
    const inside = offset % clusterSize
    const first = this.#tables.indexOf(offset)
    const most = Math.ceil((Math.min(bytes, span - (offset % span)) + inside) / clusterSize)
    const high = view.getUint32(first * 8)
    const low = view.getUint32(first * 8 + 4)
    if (high < compressedFlag && (high !== 0 || low !== 0)) {
      const host = this.#hostOf(high, low)
      // Guest data never goes over the header and the first table.
      if (host < this.#tables.fixedEnd) {
        throw ioError('EIO')
      }
      let count = 1
      while (count < most && placeOf(view, first + count) === host + count * clusterSize) {
        count++
      }
      plan.inPlace(Math.min(bytes, count * clusterSize - inside), file.node, host + inside)
      return undefined
    }
    let count = 1
    const limit = Math.min(most, space.run)
    while (count < limit && isNew(view, first + count)) {
      count++
    }
    space.checkRoom(count * clusterSize)
    const start = offset - inside
    const total = count * clusterSize
    if (!plan.reserve(this.#owner.allocations, start, start + total)) {
      return undefined
    }
    const taken = space.takeClusters(count)
    const covered = Math.min(bytes, total - inside)
    const allocation: Allocation = { start, count, space: taken }
    plan.allocate(
      covered,
      file.node,
      taken.offset + inside,
      inside,
      total - inside - covered,
      taken.isZero,
      allocation,
    )
    return undefined
  }

  async #prepare(offset: number, bytes: number, flags: number, plan: WritePlan): Promise<void> {
    const { mutex, l2 } = this.#tables
    await mutex.run(async () => {
      l2.release(await this.#tables.makeWritable(offset))
    })
    const wait = this.resolveWrite(offset, bytes, flags, plan)
    if (wait !== undefined) {
      await wait
    }
  }

  commitWrite(plan: WritePlan): Wait {
    const allocation = plan.token as Allocation
    const table = this.#tables.mutex.locked ? undefined : this.#tables.writable(allocation.start)
    if (table === undefined) {
      return this.#commitLater(allocation)
    }
    this.#enter(table, allocation)
    return undefined
  }

  #commitLater(allocation: Allocation): Promise<void> {
    return this.#tables.mutex.run(async () => {
      const table = await this.#tables.makeWritable(allocation.start)
      try {
        this.#enter(table, allocation)
      } finally {
        this.#tables.l2.release(table)
      }
    })
  }

  #enter(table: CachedTable, { start, count, space }: Allocation): void {
    const first = this.#tables.indexOf(start)
    for (let i = 0; i < count; i++) {
      const host = space.offset + i * this.#tables.clusterSize
      this.#tables.set(table, first + i, Math.floor(host / 0x1_0000_0000), host % 0x1_0000_0000)
    }
  }

  abortWrite(plan: WritePlan): Wait {
    const { space, count } = plan.token as Allocation
    this.#tables.space.giveBack(space, count)
    return undefined
  }

  readEncoded(cookie: number, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#compressed.read(cookie, offset % this.#tables.clusterSize, bytes, buffer, bufferOffset)
  }

  writeCompressed(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#compressed.write(offset, bytes, buffer, bufferOffset)
  }
}

/** An entry as a place: 0 for nothing; of compressed data none that a cluster could follow. */
function placeOf(view: DataView, index: number): number {
  return view.getUint32(index * 8) * 0x1_0000_0000 + view.getUint32(index * 8 + 4)
}

/** Whether a cluster needs a place before it can be written to. */
function isNew(view: DataView, index: number): boolean {
  return view.getUint32(index * 8) >= compressedFlag || placeOf(view, index) === 0
}
