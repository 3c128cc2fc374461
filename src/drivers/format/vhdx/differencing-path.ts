import { ioError } from '../../../errors/index.js'
import { bitIsSet, bitRun, lowFirst, setBits } from '../../../formatkit/index.js'
import { hasZeroInit } from '../../../graph/index.js'
import type { ExtentSink, FlushPath, MapPath, RangeResult, WritePlan } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import type { SectorBitmaps } from './bitmaps.js'
import { BlockState, logSectorBytes, mebibyte } from './layout.js'
import { type PathContext, takeReserved } from './path.js'

export interface DifferencingContext extends PathContext {
  readonly bitmaps: SectorBitmaps
}

/** What is entered when the data is there. */
interface Allocation {
  readonly kind: 'whole' | 'part' | 'bits'
  readonly block: number
  /** Place of a new block, bytes. */
  readonly place: number
  /** Sectors of the disk that were written, from the start of the chunk. */
  readonly first: number
  readonly count: number
}

/** Bits of a bitmap's sector. */
const bitsPerSector = logSectorBytes * 8

/**
 * Requests of a differencing disk. Blocks that are not there are the parent's; of blocks that are there in
 * part a bitmap tells whose the sectors are. Writing takes whole sectors and copies nothing.
 *
 * A flush writes bitmaps and then the table through the log, after the data is durable.
 */
export class DifferencingPath implements MapPath, FlushPath {
  readonly #context: DifferencingContext
  /** There is no parent any more: new blocks are written as a whole. */
  #whole = false

  constructor(context: DifferencingContext) {
    this.#context = context
  }

  #entry(block: number): number {
    return block + Math.floor(block / this.#context.disk.ratio)
  }

  /** Entry of the bitmap block of the block's chunk. */
  #bitmapEntry(block: number): number {
    const { ratio } = this.#context.disk
    return (Math.floor(block / ratio) + 1) * (ratio + 1) - 1
  }

  /** Sector of the disk at `offset`, from the start of its chunk. */
  #sectorOf(offset: number): number {
    const { ratio, blockBytes, sectorBytes } = this.#context.disk
    return Math.floor((offset % (ratio * blockBytes)) / sectorBytes)
  }

  /** Where the bit of `sector` of the block's chunk stands in the file: place of its 4096 bytes. */
  #bitmapPlace(block: number, sector: number): number {
    const { bat } = this.#context
    const entry = this.#bitmapEntry(block)
    const place = bat.place(entry)
    if (bat.state(entry) !== BlockState.fullyPresent || place < mebibyte) {
      throw ioError('EIO', { node: this.#context.owner.nodeName })
    }
    return place + Math.floor(sector / bitsPerSector) * logSectorBytes
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    const { bat, disk, file, bitmaps } = this.#context
    const end = offset + bytes
    let at = offset
    while (at < end) {
      const block = Math.floor(at / disk.blockBytes)
      const entry = this.#entry(block)
      const inside = at - block * disk.blockBytes
      const state = bat.state(entry)
      let next = Math.min(end, (block + 1) * disk.blockBytes)
      let more: boolean
      if (state === BlockState.partiallyPresent) {
        const first = this.#sectorOf(at)
        const place = this.#bitmapPlace(block, first)
        const bits = bitmaps.get(place)
        if (bits === undefined) {
          return this.#readLater(place, at, end, out)
        }
        const bit = first % bitsPerSector
        const limit = Math.min(bitsPerSector, bit + Math.ceil((next - at) / disk.sectorBytes))
        next = Math.min(next, at + bitRun(bits, bit, limit, lowFirst) * disk.sectorBytes)
        const host = bat.place(entry) + inside
        more = bitIsSet(bits, bit, lowFirst)
          ? out.data(next - at, file.node, host, 0)
          : out.unallocated(next - at, file.node, host)
      } else if (state === BlockState.fullyPresent) {
        more = out.data(next - at, file.node, bat.place(entry) + inside, 0)
      } else if (state === BlockState.notPresent) {
        more = out.unallocated(next - at)
      } else {
        this.#checkAbsent(state)
        more = out.zero(next - at)
      }
      if (!more) {
        return undefined
      }
      at = next
    }
    return undefined
  }

  /** @throws EIO for a state that makes no sense */
  #checkAbsent(state: number): void {
    if (state > BlockState.unmapped && state !== BlockState.unmappedOld) {
      throw ioError('EIO', { node: this.#context.owner.nodeName })
    }
  }

  async #readLater(place: number, at: number, end: number, out: ExtentSink): Promise<void> {
    await this.#loaded(place)
    const wait = this.resolveRead(at, end - at, out)
    if (wait !== undefined) {
      await wait
    }
  }

  /** The 4096 bytes of bitmaps at `place`; they are in memory until the next await. */
  async #loaded(place: number): Promise<Uint8Array> {
    const { bitmaps } = this.#context
    for (;;) {
      const bits = bitmaps.get(place)
      if (bits !== undefined) {
        return bits
      }
      await bitmaps.load(place)
    }
  }

  resolveWrite(offset: number, bytes: number, _flags: number, plan: WritePlan): Wait {
    const { bat, disk, file, changes, bitmaps, owner } = this.#context
    if (!changes.isAnnounced || bitmaps.isFull) {
      return this.#prepare(offset, bytes, plan)
    }
    const block = Math.floor(offset / disk.blockBytes)
    const entry = this.#entry(block)
    const start = block * disk.blockBytes
    const inside = offset - start
    const count = Math.min(bytes, disk.blockBytes - inside)
    const state = bat.state(entry)
    const isThere = state === BlockState.fullyPresent || state === BlockState.partiallyPresent
    const host = bat.place(entry)
    if (isThere && host < mebibyte) {
      throw ioError('EFAULT', { node: owner.nodeName })
    }
    if (state === BlockState.fullyPresent) {
      plan.inPlace(count, file.node, host + inside)
      return undefined
    }
    if (!isThere) {
      this.#checkAbsent(state)
      if (!plan.reserve(owner.allocations, start, start + disk.blockBytes)) {
        return undefined
      }
      return this.#allocate(block, inside, count, state === BlockState.notPresent && !this.#whole, plan)
    }
    const first = this.#sectorOf(offset)
    const place = this.#bitmapPlace(block, first)
    const bits = bitmaps.get(place)
    if (bits === undefined) {
      return this.#writeLater(place, offset, bytes, plan)
    }
    const bit = first % bitsPerSector
    const limit = Math.min(bitsPerSector, bit + Math.ceil(count / disk.sectorBytes))
    const run = bitRun(bits, bit, limit, lowFirst)
    const part = Math.min(count, run * disk.sectorBytes)
    if (bitIsSet(bits, bit, lowFirst)) {
      plan.inPlace(part, file.node, host + inside)
      return undefined
    }
    if (!plan.reserve(owner.allocations, offset, offset + part)) {
      return undefined
    }
    const token: Allocation = { kind: 'bits', block, place: 0, first, count: run }
    plan.allocate(part, file.node, host + inside, 0, 0, false, token)
    return undefined
  }

  async #prepare(offset: number, bytes: number, plan: WritePlan): Promise<void> {
    const { changes, bitmaps } = this.#context
    await changes.announce()
    if (bitmaps.isFull) {
      await changes.mutex.run(() => changes.writeBack())
    }
    await this.resolveWrite(offset, bytes, 0, plan)
  }

  async #writeLater(place: number, offset: number, bytes: number, plan: WritePlan): Promise<void> {
    await this.#loaded(place)
    await this.resolveWrite(offset, bytes, 0, plan)
  }

  /** @param inherits what is not written is the parent's, not zeroes */
  async #allocate(
    block: number,
    inside: number,
    count: number,
    inherits: boolean,
    plan: WritePlan,
  ): Promise<void> {
    const { file, disk } = this.#context
    const { place, isZero } = await takeReserved(this.#context, plan)
    const start = block * disk.blockBytes
    const end = inside + count
    const isAll = inside === 0 && (end === disk.blockBytes || start + end >= disk.diskBytes)
    const first = this.#sectorOf(start + inside)
    const token: Allocation = {
      kind: inherits && !isAll ? 'part' : 'whole',
      block,
      place,
      first,
      count: Math.ceil(count / disk.sectorBytes),
    }
    if (inherits) {
      plan.allocate(count, file.node, place + inside, 0, 0, isZero, token)
    } else {
      plan.allocate(count, file.node, place + inside, inside, disk.blockBytes - end, isZero, token)
    }
  }

  commitWrite(plan: WritePlan): Wait {
    const { kind, block, place, first, count } = plan.token as Allocation
    const { bat, bitmaps } = this.#context
    if (kind === 'whole') {
      bat.set(this.#entry(block), BlockState.fullyPresent, place)
      return undefined
    }
    if (kind === 'part') {
      return this.#context.changes.mutex.run(() => this.#enterPart(plan.token as Allocation))
    }
    const at = this.#bitmapPlace(block, first)
    const bits = bitmaps.get(at)
    if (bits === undefined) {
      return this.#setLater(at, first, count)
    }
    setBits(bits, first % bitsPerSector, count, lowFirst)
    bitmaps.markDirty(at)
    return undefined
  }

  async #setLater(place: number, first: number, count: number): Promise<void> {
    const bits = await this.#loaded(place)
    setBits(bits, first % bitsPerSector, count, lowFirst)
    this.#context.bitmaps.markDirty(place)
  }

  /** Enters a new block of which the disk has some sectors. Mutex held. */
  async #enterPart({ block, place, first, count }: Allocation): Promise<void> {
    const { bat, disk, bitmaps } = this.#context
    await this.#makeBitmap(this.#bitmapEntry(block))
    const start = this.#sectorOf(block * disk.blockBytes)
    const end = start + disk.blockBytes / disk.sectorBytes
    for (let at = start; at < end; ) {
      const sector = this.#bitmapPlace(block, at)
      const bits = await this.#loaded(sector)
      const bit = at % bitsPerSector
      const next = Math.min(end, at - bit + bitsPerSector)
      // What stood here while the block was not there means nothing.
      bits.fill(0, bit / 8, (bit + next - at) / 8)
      const from = Math.max(at, first)
      const to = Math.min(next, first + count)
      if (from < to) {
        setBits(bits, from % bitsPerSector, to - from, lowFirst)
      }
      bitmaps.markDirty(sector)
      at = next
    }
    bat.set(this.#entry(block), BlockState.partiallyPresent, place)
  }

  async #makeBitmap(entry: number): Promise<void> {
    const { bat, changes, file } = this.#context
    if (bat.state(entry) === BlockState.fullyPresent) {
      return
    }
    const place = await changes.grow(mebibyte)
    if (!hasZeroInit(file.node)) {
      await file.node.writeZeroes(place, mebibyte, 0)
    }
    bat.set(entry, BlockState.fullyPresent, place)
  }

  abortWrite(plan: WritePlan): Wait {
    const { kind, place } = plan.token as Allocation
    if (kind !== 'bits') {
      this.#context.changes.giveBack(place)
    }
    return undefined
  }

  /** A block that is not there becomes one of zeroes; other blocks are written to. */
  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    const { bat, disk, changes, owner } = this.#context
    const block = Math.floor(offset / disk.blockBytes)
    const entry = this.#entry(block)
    const start = block * disk.blockBytes
    const end = Math.min(start + disk.blockBytes, disk.diskBytes)
    const count = Math.min(bytes, end - offset)
    const state = bat.state(entry)
    out.bytes = 0
    if (state === BlockState.fullyPresent || state === BlockState.partiallyPresent) {
      return undefined
    }
    if (state !== BlockState.notPresent) {
      this.#checkAbsent(state)
      out.bytes = count
      return undefined
    }
    if (offset !== start || offset + count !== end) {
      return undefined
    }
    if (!changes.isAnnounced) {
      return this.#zeroLater(offset, bytes, flags, out)
    }
    const lock = owner.allocations.tryLock(start, start + disk.blockBytes)
    if (lock !== undefined) {
      bat.set(entry, BlockState.zero, 0)
      owner.allocations.release(lock)
      out.bytes = count
    }
    return undefined
  }

  async #zeroLater(offset: number, bytes: number, flags: number, out: RangeResult): Promise<void> {
    await this.#context.changes.announce()
    await this.zero(offset, bytes, flags, out)
  }

  flushToOs(): Wait {
    const { changes } = this.#context
    return changes.isDirty || changes.mutex.locked ? changes.mutex.run(() => changes.writeBack()) : undefined
  }

  /**
   * Makes all of every block the disk's own: what was the parent's becomes zeroes. Nothing is in flight;
   * mutex held. The zeroes are written, not yet the metadata.
   */
  async fillBlocks(): Promise<void> {
    const { bat, disk, file } = this.#context
    const blocks = Math.ceil(disk.diskBytes / disk.blockBytes)
    for (let block = 0; block < blocks; block++) {
      const entry = this.#entry(block)
      if (bat.state(entry) !== BlockState.partiallyPresent) {
        continue
      }
      const start = this.#sectorOf(block * disk.blockBytes)
      const sectors = disk.blockBytes / disk.sectorBytes
      for (let at = start; at < start + sectors; ) {
        const bits = await this.#loaded(this.#bitmapPlace(block, at))
        const bit = at % bitsPerSector
        const limit = Math.min(bitsPerSector, bit + start + sectors - at)
        const run = bitRun(bits, bit, limit, lowFirst)
        if (!bitIsSet(bits, bit, lowFirst)) {
          const host = bat.place(entry) + (at - start) * disk.sectorBytes
          await file.node.writeZeroes(host, run * disk.sectorBytes, 0)
        }
        at += run
      }
      bat.set(entry, BlockState.fullyPresent, bat.place(entry))
    }
    this.#whole = true
  }
}
