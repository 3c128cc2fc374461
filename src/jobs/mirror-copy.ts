import { codeOf } from '../errors/index.js'
import type { BlockNode, DirtyBitmap } from '../graph/index.js'
import { ChainStatus, chainStatus, ReqFlags } from '../io/index.js'
import { RangeLock, type Wait } from '../sched/index.js'
import type { BlockJob, JobOnError } from './block-job.js'
import { jobIoError, settled } from './copying.js'
import type { MirroredWrite, MirrorMethod } from './mirror-filter.js'

export interface MirrorCopySettings {
  readonly source: BlockNode
  readonly target: BlockNode
  readonly bitmap: DirtyBitmap
  /** Bytes that requests in flight may take. */
  readonly bufferBytes: number
  /** What is copied begins and ends on multiples of this, bytes: the target must not fill up clusters itself. */
  readonly alignment: number
  /** Ranges that are zero may be deallocated in the target. */
  readonly unmap: boolean
  readonly onSourceError: JobOnError
  readonly onTargetError: JobOnError
}

const maxInFlight = 16
const minRequestBytes = 1 << 20

/** Copies what is dirty from source to target, several requests at a time, and the guest's writes with it. */
export class MirrorCopy {
  readonly #job: BlockJob
  readonly #settings: MirrorCopySettings
  /** Ranges that are being copied or written by the guest, whole granules. */
  readonly #ranges = new RangeLock()
  readonly #buffers: Uint8Array[] = []
  readonly #requestBytes: number
  #inFlight = 0
  #bytesInFlight = 0
  #activeBytes = 0
  #finished: (() => void)[] = []
  #cursor = 0
  /** Why the job is to fail. */
  failure: Error | undefined = undefined

  constructor(job: BlockJob, settings: MirrorCopySettings) {
    this.#job = job
    this.#settings = settings
    const { bufferBytes, alignment } = settings
    const wanted = Math.min(bufferBytes, Math.max(minRequestBytes, bufferBytes / maxInFlight))
    this.#requestBytes = Math.max(alignment, wanted - (wanted % alignment))
  }

  get inFlight(): number {
    return this.#inFlight
  }

  /** Bytes that are not in the target yet. */
  get remaining(): number {
    return this.#settings.bitmap.count + this.#bytesInFlight + this.#activeBytes
  }

  get isFull(): boolean {
    return (
      this.#inFlight >= maxInFlight ||
      (this.#inFlight > 0 && this.#bytesInFlight + this.#requestBytes > this.#settings.bufferBytes)
    )
  }

  /** Waits until one of the requests in flight has ended. */
  async oneFinished(): Promise<void> {
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#finished.push(resolve)
      })
    }
  }

  async allFinished(): Promise<void> {
    while (this.#inFlight > 0) {
      await this.oneFinished()
    }
  }

  /** What to copy next; undefined: nothing is dirty. */
  #next(): { start: number; end: number } | undefined {
    const { bitmap, alignment } = this.#settings
    const area =
      bitmap.nextDirtyArea(this.#cursor, undefined, this.#requestBytes) ??
      bitmap.nextDirtyArea(0, undefined, this.#requestBytes)
    if (area === undefined) {
      return undefined
    }
    const start = area.offset - (area.offset % alignment)
    const wanted = Math.ceil((area.offset + area.bytes) / alignment) * alignment
    return { start, end: Math.min(wanted, start + this.#requestBytes, bitmap.size) }
  }

  /** Starts to copy something dirty. */
  async startOne(): Promise<void> {
    const part = this.#next()
    if (part === undefined) {
      return
    }
    const { start, end } = part
    const lock = this.#ranges.tryLock(start, end)
    if (lock === undefined) {
      await this.#ranges.wait(start, end)
      return
    }
    this.#settings.bitmap.reset(start, end - start)
    this.#cursor = end
    this.#begin(end - start)
    this.#job.moved(end - start)
    void this.#copy(start, end, lock)
  }

  #begin(bytes: number): void {
    this.#inFlight++
    this.#bytesInFlight += bytes
  }

  #end(bytes: number, lock: object): void {
    this.#ranges.release(lock)
    this.#inFlight--
    this.#bytesInFlight -= bytes
    for (const resolve of this.#finished.splice(0)) {
      resolve()
    }
  }

  async #copy(start: number, end: number, lock: object): Promise<void> {
    const buffer = this.#buffers.pop() ?? new Uint8Array(this.#requestBytes)
    const status = new ChainStatus()
    let reading = true
    try {
      for (let at = start; at < end; at += status.bytes) {
        reading = true
        await chainStatus(this.#settings.source, undefined, at, end - at, 'zero', status)
        if (status.bytes === 0) {
          status.bytes = end - at
          status.data = true
        }
        const method: MirrorMethod = status.data ? 'copy' : status.zero ? 'zero' : 'discard'
        if (method === 'copy') {
          await settled(this.#settings.source.read(at, status.bytes, buffer, 0, 0))
        }
        reading = false
        await settled(this.#toTarget(method, at, status.bytes, buffer, 0, ReqFlags.mayUnmap))
      }
      this.#job.progress.update(end - start)
    } catch (error) {
      this.#failed(error, reading, start, end - start)
    } finally {
      this.#buffers.push(buffer)
      this.#end(end - start, lock)
    }
  }

  #toTarget(
    method: MirrorMethod,
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    const { target, unmap } = this.#settings
    switch (method) {
      case 'copy':
        return target.write(offset, bytes, buffer, bufferOffset, 0)
      case 'zero':
        return target.writeZeroes(offset, bytes, unmap ? flags & ReqFlags.mayUnmap : 0)
      default:
        return target.discard(offset, bytes)
    }
  }

  /** What could not be copied is dirty again; unless the policy ends the job it is tried once more. */
  #failed(error: unknown, reading: boolean, offset: number, bytes: number): void {
    const { bitmap, onSourceError, onTargetError } = this.#settings
    bitmap.set(offset, bytes)
    const action = this.#job.errorAction(reading ? onSourceError : onTargetError, reading, codeOf(error))
    if (action === 'report') {
      this.failure ??= jobIoError(error)
    }
  }

  /** Makes all of the target zero. */
  async zeroTarget(length: number): Promise<void> {
    const step = 1 << 30
    for (let at = 0; at < length && !this.#job.isCancelled; at += step) {
      const bytes = Math.min(step, length - at)
      const flags = this.#settings.unmap ? ReqFlags.mayUnmap : 0
      await this.#job.pausePoint()
      try {
        await settled(this.#settings.target.writeZeroes(at, bytes, flags))
      } catch (error) {
        this.#failed(error, false, at, bytes)
        if (this.failure !== undefined) {
          throw this.failure
        }
      }
    }
  }

  /** Makes what was written durable in the target; false: it failed, and the job lives with it for now. */
  async flush(): Promise<boolean> {
    try {
      await settled(this.#settings.target.flush())
      return true
    } catch (error) {
      if (this.#job.errorAction(this.#settings.onTargetError, false, codeOf(error)) === 'report') {
        throw jobIoError(error)
      }
      return false
    }
  }

  /** The guest writes while the job copies in the background only. */
  async background(write: MirroredWrite): Promise<void> {
    try {
      await settled(write.source())
    } finally {
      this.markDirty(write.offset, write.bytes)
    }
  }

  /** The guest has written to the source alone, or has tried to. */
  markDirty(offset: number, bytes: number): void {
    const inside = Math.min(bytes, this.#settings.bitmap.size - offset)
    if (inside > 0) {
      this.#settings.bitmap.set(offset, inside)
    }
  }

  /** Lets the guest write to the source, then to the target, and be done when both are. */
  async active(write: MirroredWrite): Promise<void> {
    const { bitmap } = this.#settings
    const { granularity } = bitmap
    const { offset, bytes } = write
    const start = offset - (offset % granularity)
    const end = Math.ceil((offset + bytes) / granularity) * granularity
    const lock = await this.#ranges.lock(start, end)
    try {
      try {
        await settled(write.source())
      } catch (error) {
        // Nobody knows how much of it was written.
        this.markDirty(offset, bytes)
        throw error
      }
      await this.#writeTarget(write)
    } finally {
      this.#ranges.release(lock)
    }
  }

  async #writeTarget(write: MirroredWrite): Promise<void> {
    const { bitmap } = this.#settings
    const { granularity, size } = bitmap
    let { offset } = write
    let end = Math.min(offset + write.bytes, size)
    // Parts of granules that are dirty anyway stay so, and are copied later.
    if (offset % granularity !== 0 && offset < end && bitmap.get(offset)) {
      offset = Math.ceil(offset / granularity) * granularity
    }
    if (end % granularity !== 0 && end !== size && offset < end && bitmap.get(end - 1)) {
      end -= end % granularity
    }
    if (offset >= end) {
      return
    }
    const clean = Math.ceil(offset / granularity) * granularity
    const cleanEnd = end === size ? end : end - (end % granularity)
    if (clean < cleanEnd) {
      bitmap.reset(clean, cleanEnd - clean)
    }
    const bytes = end - offset
    this.#job.progress.increaseRemaining(bytes)
    this.#activeBytes += bytes
    try {
      const { buffer = empty, bufferOffset, method, flags } = write
      await settled(
        this.#toTarget(method, offset, bytes, buffer, bufferOffset + offset - write.offset, flags),
      )
      this.#job.progress.update(bytes)
    } catch (error) {
      this.#failed(error, false, offset, bytes)
    } finally {
      this.#activeBytes -= bytes
    }
  }
}

const empty = new Uint8Array(0)
