import { blockError, codeOf, strerror } from '../errors/index.js'
import { type Backend, type BlockNode, skipFilters } from '../graph/index.js'
import { ReqFlags } from '../io/index.js'
import { Mutex, monotonicClock, TimeSlice } from '../sched/index.js'
import type { ConvertPlan, StepKind } from './convert-plan.js'
import type { SourceReader } from './convert-source.js'
import { type LongRun, throwIfAborted } from './long-run.js'
import type { RateLimit } from './rate-limit.js'
import { SectorScanner, sectorBytes } from './sectors.js'

export interface PipelineOptions extends LongRun {
  readonly bufferBytes: number
  readonly compress: boolean
  readonly copyOffload: boolean
  /** Progress tells the place in the sources rather than data, so that nobody has to add that up first. */
  readonly progressByPlace: boolean
  /** Requests in flight. */
  readonly parallel: number
  /** Whether writes may overtake each other. */
  readonly outOfOrder: boolean
  /** Zeroes of at least so many bytes are not written as data; 0: everything is data. */
  readonly sparseBytes: number
  /** Whether data is searched for zeroes at all. */
  readonly scan: boolean
  /** Bytes in a cluster of the target; 1 if it has none. */
  readonly clusterBytes: number
  /** What writes should start and end at, bytes; a power of two. */
  readonly alignment: number
  /** The target reads as zeroes where nothing is written. */
  readonly targetIsZero: boolean
  readonly rateLimit: RateLimit | undefined
}

/** Lanes that overlap reading with writing as long as the caches answer. */
const warmLanes = 2
/** A wait longer than this is for a device rather than for another thread's copy. Nanoseconds. */
const slowWait = 4e6

/** One of the requests in flight: its own buffer, allocated when it first needs one. */
class Lane {
  readonly #bytes: number
  #buffer: Uint8Array | undefined
  #scanner: SectorScanner | undefined

  constructor(bytes: number) {
    this.#bytes = bytes
  }

  get buffer(): Uint8Array {
    this.#buffer ??= new Uint8Array(this.#bytes)
    return this.#buffer
  }

  get scanner(): SectorScanner {
    this.#scanner ??= new SectorScanner(this.buffer)
    return this.#scanner
  }
}

/**
 * Moves the data of a conversion. As soon as something waits, several lanes read ahead while one
 * writes, so that both sides are busy; writes happen in order unless told otherwise. Memory is one buffer per lane.
 */
export class ConvertPipeline {
  readonly #sources: SourceReader
  readonly #plan: ConvertPlan
  readonly #target: Backend
  /** The format below filters. */
  readonly #node: BlockNode
  readonly #options: PipelineOptions
  readonly #planning = new Mutex()
  readonly #slice = new TimeSlice()
  /** Where the next step starts. */
  #next = 0
  /** Where the next write in order starts, and who waits for its turn by offset. */
  #turn = 0
  readonly #waiting = new Map<number, () => void>()
  readonly #lanes: Promise<void>[] = []
  #failed = false
  #failure: unknown
  #copyOffload: boolean
  #total = 0
  /** Bytes handled as data so far. */
  dataBytes = 0

  constructor(sources: SourceReader, plan: ConvertPlan, target: Backend, options: PipelineOptions) {
    this.#sources = sources
    this.#plan = plan
    this.#target = target
    this.#node = skipFilters(target.node) ?? target.node
    this.#options = options
    this.#copyOffload = options.copyOffload
  }

  /** Converts everything. When it throws, nothing is in flight any more. */
  async run(): Promise<void> {
    if (this.#options.progress !== undefined) {
      this.#total = this.#options.progressByPlace ? this.#sources.length : await this.#countData()
    }
    this.#startLane()
    // Lanes may be added while earlier ones end.
    for (let ended = 0; ended < this.#lanes.length; ended++) {
      await this.#lanes[ended]
    }
    if (this.#failed) {
      throw this.#failure
    }
    if (this.#options.compress) {
      // Tells the driver that the stream of clusters ends here.
      await this.#write(0, 0, new Uint8Array(0), 0, 0)
    }
    this.#options.progress?.(this.#total, this.#total)
  }

  /** Starts a further lane, if there may be one. */
  #startLane(): void {
    if (this.#lanes.length < this.#options.parallel) {
      this.#lanes.push(this.#runLane(new Lane(this.#options.bufferBytes)))
    }
  }

  /**
   * Waits for a request, and has further lanes started meanwhile. As long as nothing waits, one lane
   * with its warm buffer is the fastest way; while the page cache answers, two are, one reading and one
   * writing; more only cool the caches, until a device has to be waited for.
   */
  async #overlap(wait: Promise<void>): Promise<void> {
    const { compress, outOfOrder } = this.#options
    if (compress || outOfOrder || this.#lanes.length < warmLanes) {
      this.#startLane()
      await wait
      return
    }
    const start = monotonicClock.now()
    await wait
    if (monotonicClock.now() - start > slowWait) {
      this.#startLane()
    }
  }

  #isData(kind: StepKind): boolean {
    return kind === 'data' || (kind === 'zero' && this.#options.sparseBytes === 0)
  }

  async #countData(): Promise<number> {
    let total = 0
    for (let offset = 0; offset < this.#sources.length; ) {
      throwIfAborted(this.#options.signal)
      await this.#plan.next(offset)
      if (this.#isData(this.#plan.kind)) {
        total += this.#plan.bytes
      }
      offset += this.#plan.bytes
      const pause = this.#slice.breathe()
      if (pause !== undefined) {
        await pause
      }
    }
    this.#plan.restart()
    return total
  }

  async #runLane(lane: Lane): Promise<void> {
    try {
      while (await this.#step(lane)) {
        const pause = this.#slice.breathe()
        if (pause !== undefined) {
          await pause
        }
      }
    } catch (error) {
      this.#fail(error)
    }
  }

  /** The first failure counts; lanes that wait for their turn must not wait for ever. */
  #fail(error: unknown): void {
    if (!this.#failed) {
      this.#failed = true
      this.#failure = error
    }
    for (const wake of this.#waiting.values()) {
      wake()
    }
    this.#waiting.clear()
  }

  /** Handles the next step; false when there is none. */
  async #step(lane: Lane): Promise<boolean> {
    const options = this.#options
    const lock = this.#planning.lock()
    if (lock !== undefined) {
      await lock
    }
    let offset: number
    let bytes: number
    let kind: StepKind
    try {
      if (this.#failed || this.#next >= this.#sources.length) {
        return false
      }
      throwIfAborted(options.signal)
      await this.#plan.next(this.#next)
      offset = this.#next
      kind = this.#plan.kind
      bytes = this.#plan.bytes
      if (kind === 'zero' && options.sparseBytes === 0) {
        bytes = Math.min(bytes, options.bufferBytes)
      }
      this.#next += bytes
    } finally {
      this.#planning.unlock()
    }
    if (this.#isData(kind)) {
      this.dataBytes += bytes
      if (!options.progressByPlace) {
        options.progress?.(Math.min(this.dataBytes, this.#total), this.#total)
      }
    }
    if (options.progressByPlace) {
      options.progress?.(Math.min(this.#next, this.#total), this.#total)
    }
    await this.#carryOut(lane, offset, bytes, kind)
    return true
  }

  async #carryOut(lane: Lane, offset: number, bytes: number, kind: StepKind): Promise<void> {
    const offload = kind === 'data' && this.#copyOffload
    let write = kind
    if (kind === 'data' && !offload) {
      const wait = this.#sources.read(offset, bytes, lane.buffer)
      if (wait !== undefined) {
        await this.#overlap(wait)
      }
    } else if (kind === 'zero' && this.#options.sparseBytes === 0) {
      lane.buffer.fill(0, 0, bytes)
      write = 'data'
    }
    if (!this.#options.outOfOrder) {
      const turn = this.#awaitTurn(offset)
      if (turn !== undefined) {
        await turn
      }
    }
    if (this.#failed) {
      return
    }
    if (offload) {
      this.#startLane()
      if (await this.#copyInKernel(offset, bytes)) {
        this.#passTurn(offset + bytes)
        return
      }
      await this.#sources.read(offset, bytes, lane.buffer)
    }
    try {
      await this.#writeStep(lane, offset, bytes, write)
    } catch (error) {
      const code = codeOf(error)
      if (code === 'ECANCELED') {
        throw error
      }
      throw blockError(code, `error while writing at byte ${offset}: ${strerror(code)}`, { cause: error })
    }
    this.#passTurn(offset + bytes)
  }

  #awaitTurn(offset: number): Promise<void> | undefined {
    if (this.#turn === offset || this.#failed) {
      return undefined
    }
    return new Promise<void>((resolve) => {
      this.#waiting.set(offset, resolve)
    })
  }

  /** The step that ends at `offset` needs its turn no longer. */
  #passTurn(offset: number): void {
    if (this.#turn >= offset) {
      return
    }
    this.#turn = offset
    const wake = this.#waiting.get(offset)
    if (wake !== undefined) {
      this.#waiting.delete(offset)
      wake()
    }
  }

  /** Copies the step inside the kernel. If that fails once, it is not tried again. */
  async #copyInKernel(offset: number, bytes: number): Promise<boolean> {
    try {
      if (await this.#sources.copyTo(this.#target.node, offset, bytes)) {
        return true
      }
    } catch (error) {
      // Whatever it is, reading and writing will tell with the right text, or work.
      codeOf(error)
    }
    this.#copyOffload = false
    return false
  }

  async #writeStep(lane: Lane, offset: number, bytes: number, kind: StepKind): Promise<void> {
    if (kind === 'backing') {
      return
    }
    const end = offset + bytes
    if (kind === 'zero') {
      await this.#writeZeroes(offset, bytes, end)
      return
    }
    const { compress, sparseBytes, alignment, scan } = this.#options
    const sectors = bytes / sectorBytes
    if (!scan || compress) {
      if (scan && lane.scanner.allZero(sectors)) {
        await this.#writeZeroes(offset, bytes, end)
      } else {
        await this.#write(offset, bytes, lane.buffer, 0, end)
      }
      return
    }
    const scanner = lane.scanner
    const place = offset / sectorBytes
    for (let at = 0; at < sectors; ) {
      scanner.next(at, sectors - at, place + at, sparseBytes / sectorBytes, alignment / sectorBytes)
      const run = scanner.sectors
      const start = at * sectorBytes
      at += run
      if (scanner.isData) {
        await this.#write(offset + start, run * sectorBytes, lane.buffer, start, end)
      } else {
        await this.#writeZeroes(offset + start, run * sectorBytes, end)
      }
    }
  }

  /**
   * A part of a step is being written up to `end`. Once the last part has its place in the target, the
   * next step may start: what is written first gets its place first. Two steps that meet in one
   * cluster come one after the other.
   */
  #started(end: number, stepEnd: number): void {
    if (end === stepEnd && end % this.#options.clusterBytes === 0 && this.#isPlaced(end)) {
      this.#passTurn(end)
    }
  }

  /** Whether the driver has decided where the byte before `end` goes, whose write is in flight. */
  #isPlaced(end: number): boolean {
    const node = this.#node
    // Compressed clusters are placed in the order of the requests; without a map there is nothing to decide.
    return this.#options.compress || node.map === undefined || node.allocations.isLocked(end - 1, end)
  }

  /** Writes a part of the step that ends at `stepEnd`. */
  async #write(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    stepEnd: number,
  ): Promise<void> {
    const { rateLimit, compress, signal } = this.#options
    if (rateLimit !== undefined) {
      await rateLimit.take(bytes, signal)
      throwIfAborted(signal)
    }
    const flags = compress ? ReqFlags.writeCompressed : 0
    const wait = this.#target.write(offset, bytes, buffer, bufferOffset, flags)
    this.#started(offset + bytes, stepEnd)
    if (wait !== undefined) {
      await this.#overlap(wait)
    }
  }

  async #writeZeroes(offset: number, bytes: number, stepEnd: number): Promise<void> {
    if (this.#options.targetIsZero) {
      return
    }
    const wait = this.#target.writeZeroes(offset, bytes, ReqFlags.mayUnmap)
    this.#started(offset + bytes, stepEnd)
    if (wait !== undefined) {
      await this.#overlap(wait)
    }
  }
}
