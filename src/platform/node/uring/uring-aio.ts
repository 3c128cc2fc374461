import { ioError } from '../../../errors/index.js'
import type { Wait } from '../../../sched/index.js'
import type { AioBackend } from '../aio-backend.js'
import { Errno, fromErrno } from '../errors.js'
import type { Libc } from '../libc.js'
import { addressOf } from '../memory.js'
import { readPool, writePool } from '../transfer.js'
import { fsyncDataOnly, Ring, UringOperation } from './ring.js'

/** Requests in flight at most; more wait their turn. A power of two. */
const depth = 256
/** Largest transfer in one request, bytes. */
const callBytes = 1 << 30
/** Completions dealt with before new requests go to the kernel: a device must not run dry meanwhile. */
const batch = 16
/** How long a process that has nothing else to do sleeps in the kernel at a time, microseconds. */
const nap = 100
/** How long the event loop looks for completions after the last one before it goes to sleep, milliseconds. */
const alert = 0.1

/** A request in flight or waiting to be. */
interface Request {
  readonly operation: number
  readonly fd: number
  readonly offset: number
  readonly bytes: number
  /** Kept alive while the kernel knows its address. */
  readonly buffer: Uint8Array | undefined
  readonly bufferOffset: number
  /**
   * Reads: a transfer that is no multiple of this many bytes has met the end of the file. fallocate: the mode.
   */
  readonly extra: number
  /** Bytes transferred so far. */
  done: number
  readonly resolve: (result: number) => void
  readonly reject: (error: unknown) => void
}

/**
 * Requests through io_uring. Those made in one turn of the event loop go to the kernel in one call. Then
 * the loop looks for completions in every turn, a load from memory; after a while without any it sleeps:
 * the whole process if it is in the foreground, else a thread of the pool that waits in the kernel.
 */
export class UringAio implements AioBackend {
  readonly #c: Libc
  readonly #ring: Ring
  readonly #foreground: boolean
  readonly #requests: (Request | undefined)[]
  readonly #freeIds: number[]
  readonly #backlog: Request[] = []
  #submitting = false
  #turning = false
  #lastCompletion = 0
  #closed: (() => void) | undefined = undefined

  /** Undefined: the kernel does not offer what is needed, or does not let this process have it. */
  static open(c: Libc, foreground: boolean): UringAio | undefined {
    const ring = Ring.open(c, depth)
    return typeof ring === 'number' ? undefined : new UringAio(c, ring, foreground)
  }

  private constructor(c: Libc, ring: Ring, foreground: boolean) {
    this.#c = c
    this.#ring = ring
    this.#foreground = foreground
    this.#requests = new Array<Request | undefined>(depth).fill(undefined)
    this.#freeIds = Array.from({ length: depth }, (_, i) => depth - 1 - i)
  }

  read(
    fd: number,
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    granule: number,
  ): Promise<void> {
    return this.#run<void>(UringOperation.read, fd, offset, bytes, buffer, bufferOffset, granule)
  }

  write(fd: number, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    return this.#run<void>(UringOperation.write, fd, offset, bytes, buffer, bufferOffset, 0)
  }

  sync(fd: number): Promise<void> {
    return this.#run<void>(UringOperation.fsync, fd, 0, 0, undefined, 0, 0)
  }

  fallocate(fd: number, mode: number, offset: number, bytes: number): Promise<number> {
    return this.#run<number>(UringOperation.fallocate, fd, offset, bytes, undefined, 0, mode)
  }

  #run<T>(
    operation: number,
    fd: number,
    offset: number,
    bytes: number,
    buffer: Uint8Array | undefined,
    bufferOffset: number,
    extra: number,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const done = resolve as unknown as (result: number) => void
      this.#start({
        operation,
        fd,
        offset,
        bytes,
        buffer,
        bufferOffset,
        extra,
        done: 0,
        resolve: done,
        reject,
      })
    })
  }

  #start(request: Request): void {
    if (this.#freeIds.length === 0 || !this.#ring.hasRoom) {
      this.#backlog.push(request)
      return
    }
    const id = this.#freeIds.pop() as number
    this.#requests[id] = request
    this.#prepare(id, request)
    if (!this.#submitting) {
      // All that is asked for before this turn ends goes in one call.
      this.#submitting = true
      queueMicrotask(this.#submit)
    }
  }

  #prepare(id: number, request: Request): void {
    const { operation, fd, buffer, done } = request
    const offset = request.offset + done
    if (buffer === undefined) {
      const fallocate = operation === UringOperation.fallocate
      this.#ring.prepare(
        operation,
        fd,
        offset,
        fallocate ? request.bytes : 0,
        fallocate ? request.extra : 0,
        fallocate ? 0 : fsyncDataOnly,
        id,
      )
      return
    }
    const address = addressOf(this.#c, buffer) + request.bufferOffset + done
    const length = Math.min(request.bytes - done, callBytes)
    this.#ring.prepare(operation, fd, offset, address, length, 0, id)
  }

  readonly #submit = (): void => {
    this.#submitting = false
    // A refusal (EAGAIN, EBUSY: too much in flight) is tried again in the next turn.
    this.#ring.submit()
    if (!this.#turning) {
      this.#turning = true
      this.#lastCompletion = performance.now()
      setImmediate(this.#turn)
    }
  }

  /** One look at the completions, then the next one is arranged for. */
  readonly #turn = (): void => {
    if (this.#ring.pending > 0) {
      this.#ring.submit()
    }
    let found = this.#reap()
    if (found === 0 && this.#foreground && this.#busy) {
      this.#ring.submitAndWait(nap)
      found = this.#reap()
    }
    if (!this.#busy) {
      this.#turning = false
      this.#closed?.()
      return
    }
    if (found > 0) {
      this.#lastCompletion = performance.now()
    } else if (!this.#foreground && performance.now() - this.#lastCompletion > alert) {
      this.#ring.waitElsewhere().then(this.#awake, this.#awake)
      return
    }
    setImmediate(this.#turn)
  }

  readonly #awake = (): void => {
    this.#lastCompletion = performance.now()
    this.#turn()
  }

  get #busy(): boolean {
    return this.#freeIds.length < depth
  }

  #reap(): number {
    const found = this.#ring.reap(batch, this.#completed)
    while (this.#backlog.length > 0 && this.#freeIds.length > 0 && this.#ring.hasRoom) {
      this.#start(this.#backlog.shift() as Request)
    }
    return found
  }

  readonly #completed = (id: number, result: number): void => {
    const request = this.#requests[id] as Request
    const { buffer } = request
    this.#requests[id] = undefined
    this.#freeIds.push(id)
    if (result === -Errno.EINTR) {
      this.#start(request)
      return
    }
    if (result > 0 && buffer !== undefined) {
      request.done += result
      const { done, bytes } = request
      if (done < bytes && !(request.operation === UringOperation.read && result % request.extra !== 0)) {
        this.#start(request)
        return
      }
    }
    this.#finish(request, result)
  }

  #finish(request: Request, result: number): void {
    const { operation, fd, offset, bytes, buffer, bufferOffset, extra, done, resolve, reject } = request
    if (operation === UringOperation.fallocate) {
      resolve(result)
    } else if (result === -Errno.EAGAIN && buffer !== undefined) {
      // What cannot be done without blocking somewhere, a thread does.
      const elsewhere =
        operation === UringOperation.read
          ? readPool(fd, offset, bytes, buffer, bufferOffset, extra)
          : writePool(fd, offset, bytes, buffer, bufferOffset)
      elsewhere.then(() => resolve(0), reject)
    } else if (result < 0) {
      reject(fromErrno(-result))
    } else if (done < bytes && operation === UringOperation.write) {
      reject(ioError('ENOSPC'))
    } else {
      if (done < bytes) {
        // The file ended.
        buffer?.fill(0, bufferOffset + done, bufferOffset + bytes)
      }
      resolve(0)
    }
  }

  /** To be called when nobody starts anything any more; what is in flight is waited for. */
  close(): Wait {
    if (!this.#turning && !this.#submitting) {
      this.#ring.close()
      return undefined
    }
    return new Promise<void>((resolve) => {
      this.#closed = resolve
    }).then(() => {
      this.#ring.close()
    })
  }
}
