import { ioError } from '../../../errors/index.js'
import type { CachedTable } from '../../../formatkit/index.js'
import type { BlockNode } from '../../../graph/index.js'
import {
  type ExtentSink,
  type MapPath,
  type RangeResult,
  ReqFlags,
  type WritePlan,
} from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { QedTables } from './tables.js'

/** Entries of the second level that are no places. */
const unallocated = 0
const zeroCluster = 1

/** What `commitWrite` needs to know of clusters that `resolveWrite` took. */
interface Allocation {
  /** Guest offset of the first cluster. */
  readonly start: number
  readonly count: number
  /** Place in the file, bytes. */
  readonly host: number
}

/** An entry: a place in the file, or one of the two numbers above. May be above what is exact, so compare first. */
function entryOf(view: DataView, index: number): number {
  return view.getUint32(index * 8 + 4, true) * 0x1_0000_0000 + view.getUint32(index * 8, true)
}

function setEntry(view: DataView, index: number, value: number): void {
  view.setUint32(index * 8, value % 0x1_0000_0000, true)
  view.setUint32(index * 8 + 4, Math.floor(value / 0x1_0000_0000), true)
}

/** Requests of an open image: a cluster is there, reads as zeroes, or the backing file shows through. */
export class QedPath implements MapPath {
  readonly #owner: BlockNode
  readonly #tables: QedTables

  constructor(owner: BlockNode, tables: QedTables) {
    this.#owner = owner
    this.#tables = tables
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const { span, sliceSpan, l2 } = this.#tables
    const end = offset + bytes
    let at = offset
    while (at < end) {
      const place = this.#tables.sliceOffset(at)
      if (place === 0) {
        const next = Math.min(end, (Math.floor(at / span) + 1) * span)
        if (!out.unallocated(next - at)) {
          return undefined
        }
        at = next
        continue
      }
      const slice = l2.reach(place)
      if (slice === undefined) {
        return this.#readLater(place, at, end, out)
      }
      const next = Math.min(end, (Math.floor(at / sliceSpan) + 1) * sliceSpan)
      if (!this.#report(slice, at, next, out)) {
        return undefined
      }
      at = next
    }
    return undefined
  }

  async #readLater(place: number, at: number, end: number, out: ExtentSink): Promise<void> {
    const { sliceSpan, l2 } = this.#tables
    const next = Math.min(end, (Math.floor(at / sliceSpan) + 1) * sliceSpan)
    const slice = await this.#tables.load(place)
    let more: boolean
    try {
      more = this.#report(slice, at, next, out)
    } finally {
      l2.release(slice)
    }
    if (more && next < end) {
      const wait = this.resolveRead(next, end - next, out)
      if (wait !== undefined) {
        await wait
      }
    }
  }

  /** Reports `[from, end)`, which one slice maps; false: no more is wanted. */
  #report({ view }: CachedTable, from: number, end: number, out: ExtentSink): boolean {
    const { clusterSize, file } = this.#tables
    let index = this.#tables.indexOf(from)
    let at = from
    while (at < end) {
      const entry = entryOf(view, index)
      const step = entry <= zeroCluster ? 0 : clusterSize
      const inside = at % clusterSize
      let next = Math.min(end, at - inside + clusterSize)
      index++
      if (entry > zeroCluster) {
        this.#checkCluster(entry)
      }
      // What follows is checked when a request gets there alone.
      for (let follows = entry + step; next < end && entryOf(view, index) === follows; follows += step) {
        if (step !== 0 && !this.#tables.isCluster(follows)) {
          break
        }
        next = Math.min(end, next + clusterSize)
        index++
      }
      const more =
        entry === unallocated
          ? out.unallocated(next - at)
          : entry === zeroCluster
            ? out.zero(next - at)
            : out.data(next - at, file.node, entry + inside, 0)
      if (!more) {
        return false
      }
      at = next
    }
    return true
  }

  #checkCluster(host: number): void {
    if (!this.#tables.isCluster(host)) {
      throw ioError('EINVAL')
    }
  }

  /** Whether the image has to be marked before tables change. Over a backing file QEMU never does. */
  get #needsMark(): boolean {
    return !this.#tables.header.needsCheck && this.#owner.backing === undefined
  }

  resolveWrite(offset: number, bytes: number, flags: number, plan: WritePlan): Wait {
    const { clusterSize, file, sliceSpan } = this.#tables
    // The table comes after the data: a slice that is not there says that nothing is.
    const isMapped = this.#tables.sliceOffset(offset) !== 0
    const view = isMapped ? this.#tables.writable(offset)?.view : undefined
    if (isMapped && view === undefined) {
      return this.#prepare(offset, () => this.resolveWrite(offset, bytes, flags, plan))
    }
    const inside = offset % clusterSize
    const first = this.#tables.indexOf(offset)
    const most = Math.ceil((Math.min(bytes, sliceSpan - (offset % sliceSpan)) + inside) / clusterSize)
    const host = view === undefined ? unallocated : entryOf(view, first)
    if (view !== undefined && host > zeroCluster) {
      this.#checkCluster(host)
      let count = 1
      while (
        count < most &&
        entryOf(view, first + count) === host + count * clusterSize &&
        this.#tables.isCluster(host + count * clusterSize)
      ) {
        count++
      }
      if (!this.#tables.isDataPlace(host, count * clusterSize)) {
        throw ioError('EIO')
      }
      plan.inPlace(Math.min(bytes, count * clusterSize - inside), file.node, host + inside)
      return undefined
    }
    if (this.#needsMark) {
      return this.#markFirst(() => this.resolveWrite(offset, bytes, flags, plan))
    }
    let count = 1
    const limit = Math.min(most, this.#tables.run)
    while (count < limit && (view === undefined || entryOf(view, first + count) === host)) {
      count++
    }
    this.#tables.checkRoom(count * clusterSize)
    const start = offset - inside
    const total = count * clusterSize
    if (!plan.reserve(this.#owner.allocations, start, start + total)) {
      return undefined
    }
    const place = this.#tables.takeClusters(count)
    const covered = Math.min(bytes, total - inside)
    const allocation: Allocation = { start, count, host: place }
    // All of the clusters is written: others take the part of one at the end of a file for none.
    plan.allocate(covered, file.node, place + inside, inside, total - inside - covered, false, allocation)
    return undefined
  }

  /** Loads the slice for `offset`, and goes on. */
  async #prepare(offset: number, then: () => Wait): Promise<void> {
    const { mutex, l2 } = this.#tables
    await mutex.run(async () => {
      l2.release(await this.#tables.makeWritable(offset))
    })
    const wait = then()
    if (wait !== undefined) {
      await wait
    }
  }

  async #markFirst(then: () => Wait): Promise<void> {
    await this.#tables.mutex.run(() => this.#mark())
    const wait = then()
    if (wait !== undefined) {
      await wait
    }
  }

  /** Mutex held. */
  async #mark(): Promise<void> {
    if (this.#needsMark) {
      await this.#tables.mark()
    }
  }

  commitWrite(plan: WritePlan): Wait {
    const allocation = plan.token as Allocation
    // A flush may have taken the mark away.
    const isFree = !this.#tables.mutex.locked && !this.#needsMark
    const slice = isFree ? this.#tables.writable(allocation.start) : undefined
    if (slice === undefined) {
      return this.#commitLater(allocation)
    }
    this.#enter(slice, allocation)
    return undefined
  }

  #commitLater(allocation: Allocation): Promise<void> {
    return this.#tables.mutex.run(async () => {
      await this.#mark()
      const slice = await this.#tables.makeWritable(allocation.start)
      try {
        this.#enter(slice, allocation)
      } finally {
        this.#tables.l2.release(slice)
      }
    })
  }

  #enter(slice: CachedTable, { start, count, host }: Allocation): void {
    const { l2, clusterSize } = this.#tables
    const first = this.#tables.indexOf(start)
    for (let i = 0; i < count; i++) {
      setEntry(slice.view, first + i, host + i * clusterSize)
    }
    l2.markDirty(slice)
    l2.orderAfterFlush()
  }

  abortWrite(plan: WritePlan): Wait {
    const { host, count } = plan.token as Allocation
    this.#tables.giveBack(host, count)
    return undefined
  }

  /** Whole clusters that are not there become zero clusters; data is zeroed where it is. */
  async zero(offset: number, bytes: number, flags: number, out: RangeResult): Promise<void> {
    const { clusterSize, sliceSpan, mutex, l2 } = this.#tables
    out.bytes = 0
    const isLast = offset + bytes === this.#owner.length
    const end = isLast ? offset + bytes : offset + bytes - ((offset + bytes) % clusterSize)
    if (offset % clusterSize !== 0 || end <= offset) {
      return
    }
    const { allocations } = this.#owner
    const range = await allocations.lock(offset, Math.ceil(end / clusterSize) * clusterSize)
    try {
      for (let at = offset; at < end; ) {
        const next = Math.min(end, (Math.floor(at / sliceSpan) + 1) * sliceSpan)
        const from = at
        const data = await mutex.run(async () => {
          if (this.#tables.sliceOffset(from) === 0) {
            await this.#mark()
          }
          const slice = await this.#tables.makeWritable(from)
          try {
            if (this.#hasUnallocated(slice, from, next)) {
              await this.#mark()
            }
            return this.#enterZeroes(slice, from, next)
          } finally {
            l2.release(slice)
          }
        })
        for (const { host, length } of data) {
          const wait = this.#tables.file.node.writeZeroes(host, length, flags & ~ReqFlags.fua)
          if (wait !== undefined) {
            await wait
          }
        }
        at = next
        out.bytes = at - offset
      }
    } finally {
      allocations.release(range)
    }
  }

  #hasUnallocated({ view }: CachedTable, from: number, end: number): boolean {
    for (let at = from; at < end; at += this.#tables.clusterSize) {
      if (entryOf(view, this.#tables.indexOf(at)) === unallocated) {
        return true
      }
    }
    return false
  }

  /** Makes zero clusters of what is not there in `[from, end)` of a slice; the result is where the rest stands in the file. */
  #enterZeroes(slice: CachedTable, from: number, end: number): { host: number; length: number }[] {
    const { clusterSize, l2 } = this.#tables
    const data: { host: number; length: number }[] = []
    for (let at = from; at < end; at += clusterSize) {
      const index = this.#tables.indexOf(at)
      const entry = entryOf(slice.view, index)
      if (entry > zeroCluster) {
        this.#checkCluster(entry)
        const length = Math.min(clusterSize, end - at)
        if (!this.#tables.isDataPlace(entry, clusterSize)) {
          throw ioError('EIO')
        }
        const last = data.at(-1)
        if (last !== undefined && last.host + last.length === entry) {
          last.length += length
        } else {
          data.push({ host: entry, length })
        }
      } else if (entry === unallocated) {
        setEntry(slice.view, index, zeroCluster)
        l2.markDirty(slice)
      }
    }
    return data
  }
}
