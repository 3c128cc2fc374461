import fs from 'node:fs'
import { Errno } from '../errors.js'
import type { Libc, Mapping } from '../libc.js'

// io_uring(7): two queues in memory shared with the kernel. One thread may use a Ring, except for
// waiting, which another one may do meanwhile.

/** Operations, IORING_OP_*. */
export const UringOperation = {
  fsync: 3,
  fallocate: 17,
  read: 22,
  write: 23,
} as const

/** IORING_FSYNC_DATASYNC */
export const fsyncDataOnly = 1

const IORING_SETUP_COOP_TASKRUN = 1 << 8
const IORING_ENTER_GETEVENTS = 1 << 0
const IORING_ENTER_EXT_ARG = 1 << 3
const IORING_REGISTER_PROBE = 8
const IO_URING_OP_SUPPORTED = 1 << 0
const IORING_OFF_SQES = 0x1000_0000
/** One mapping for both queues, completions are never dropped, waiting with a timeout: Linux 5.11. */
const neededFeatures = (1 << 0) | (1 << 1) | (1 << 8)

/** Sizes of the kernel's structures, bytes. */
const paramsBytes = 120
const sqeBytes = 64
const cqeBytes = 16
const probeHeadBytes = 16
const probeEntryBytes = 8

/** Receives what the kernel has finished: the id of the request and its result or negated errno. */
export type Completed = (id: number, result: number) => void

/** A ring and its memory. It must be closed, and only when nothing is in flight. */
export class Ring {
  /** Requests that fit between two calls of {@link submit}. */
  readonly entries: number
  readonly #c: Libc
  readonly #fd: number
  readonly #queues: Mapping
  readonly #requests: Mapping
  readonly #words: Int32Array
  readonly #sqes: Int32Array
  /** Indexes of the queues' counters and entries within {@link #words}. */
  readonly #sqHead: number
  readonly #sqTail: number
  readonly #sqMask: number
  readonly #cqHead: number
  readonly #cqTail: number
  readonly #cqMask: number
  readonly #cqes: number
  #tail: number
  #pending = 0
  /** struct io_uring_getevents_arg, and the timespec that it points to. */
  readonly #waitArgument: Uint8Array
  readonly #timeout: BigInt64Array

  /** A new ring with room for `entries` requests, or the negated errno why there is none. */
  static open(c: Libc, entries: number): Ring | number {
    const params = new Uint32Array(paramsBytes / 4)
    const bytes = new Uint8Array(params.buffer)
    params[2] = IORING_SETUP_COOP_TASKRUN
    let fd = c.uringSetup(entries, bytes)
    if (fd === -Errno.EINVAL) {
      params.fill(0)
      fd = c.uringSetup(entries, bytes)
    }
    if (fd < 0) {
      return fd
    }
    let mapped: Mapping[] = []
    try {
      const word = (index: number): number => params[index] as number
      const sqEntries = word(0)
      // Offsets of the submission queue begin at word 10, those of the completion queue at word 20.
      const queueBytes = Math.max(word(10 + 6) + sqEntries * 4, word(20 + 5) + word(1) * cqeBytes)
      if (
        (word(5) & neededFeatures) !== neededFeatures ||
        !knowsOperations(c, fd) ||
        // A sandbox may refuse this call alone.
        c.uringEnter(fd, 0, 0, 0, null, 0) < 0
      ) {
        return -Errno.EOPNOTSUPP
      }
      const queues = c.map(fd, 0, queueBytes)
      mapped = queues === undefined ? [] : [queues]
      const requests = c.map(fd, IORING_OFF_SQES, sqEntries * sqeBytes)
      mapped = requests === undefined ? mapped : [...mapped, requests]
      if (queues === undefined || requests === undefined) {
        return -Errno.ENOMEM
      }
      const ring = new Ring(c, fd, queues, requests, params)
      mapped = []
      fd = -1
      return ring
    } catch {
      // Memory of others cannot be looked at in this JavaScript engine.
      return -Errno.EOPNOTSUPP
    } finally {
      for (const mapping of mapped) {
        mapping.unmap()
      }
      if (fd >= 0) {
        fs.closeSync(fd)
      }
    }
  }

  private constructor(c: Libc, fd: number, queues: Mapping, requests: Mapping, params: Uint32Array) {
    const at = (index: number): number => (params[index] as number) >> 2
    const words = new Int32Array(queues.memory, 0, queues.memory.byteLength >> 2)
    this.#c = c
    this.#fd = fd
    this.#queues = queues
    this.#requests = requests
    this.#words = words
    this.#sqes = new Int32Array(requests.memory)
    this.entries = params[0] as number
    this.#sqHead = at(10)
    this.#sqTail = at(11)
    this.#sqMask = words[at(12)] as number
    this.#cqHead = at(20)
    this.#cqTail = at(21)
    this.#cqMask = words[at(22)] as number
    this.#cqes = at(25)
    this.#tail = words[this.#sqTail] as number
    // Requests stand in the order of their numbers, always.
    for (let i = 0; i < this.entries; i++) {
      words[at(16) + i] = i
    }
    const wait = new Uint8Array(24 + 16)
    this.#waitArgument = wait.subarray(0, 24)
    this.#timeout = new BigInt64Array(wait.buffer, 24)
    new DataView(wait.buffer).setBigUint64(16, BigInt(c.address(wait) + 24), true)
  }

  /** Whether {@link prepare} has room. */
  get hasRoom(): boolean {
    return ((this.#tail - Atomics.load(this.#words, this.#sqHead)) | 0) < this.entries
  }

  /** Requests prepared and not handed over. */
  get pending(): number {
    return this.#pending
  }

  /**
   * Writes a request down. Offsets and lengths are bytes; the memory at `address` must stay where it is
   * until the completion. `flags` belong to the operation.
   */
  prepare(
    operation: number,
    fd: number,
    offset: number,
    address: number,
    length: number,
    flags: number,
    id: number,
  ): void {
    const sqes = this.#sqes
    const base = (this.#tail & this.#sqMask) * (sqeBytes / 4)
    sqes[base] = operation
    sqes[base + 1] = fd
    sqes[base + 2] = offset | 0
    sqes[base + 3] = Math.floor(offset / 0x1_0000_0000)
    sqes[base + 4] = address | 0
    sqes[base + 5] = address / 0x1_0000_0000
    sqes[base + 6] = length
    sqes[base + 7] = flags
    sqes[base + 8] = id
    this.#tail = (this.#tail + 1) | 0
    this.#pending++
  }

  /** Hands over what was prepared: 0, or the negated errno of a refusal, after which it may be tried again. */
  submit(): number {
    return this.#pending === 0 ? 0 : this.#enter(0, 0, null)
  }

  /** Hands over what was prepared and waits for a completion, `microseconds` at most. */
  submitAndWait(microseconds: number): number {
    this.#timeout[1] = BigInt(microseconds * 1000)
    return this.#enter(1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, this.#waitArgument)
  }

  #enter(complete: number, flags: number, argument: Uint8Array | null): number {
    Atomics.store(this.#words, this.#sqTail, this.#tail)
    const result = this.#c.uringEnter(
      this.#fd,
      this.#pending,
      complete,
      flags,
      argument,
      argument?.length ?? 0,
    )
    if (result < 0) {
      return result
    }
    this.#pending -= result
    return 0
  }

  /** Settles on another thread once a completion is there. */
  async waitElsewhere(): Promise<void> {
    await this.#c.uringEnterAsync(this.#fd, 0, 1, IORING_ENTER_GETEVENTS)
  }

  /** Takes completions, `limit` at most; returns how many there were. `completed` may prepare requests. */
  reap(limit: number, completed: Completed): number {
    const words = this.#words
    const first = words[this.#cqHead] as number
    let head = first
    const tail = Atomics.load(words, this.#cqTail)
    while (head !== tail && ((head - first) | 0) < limit) {
      const at = this.#cqes + (head & this.#cqMask) * (cqeBytes / 4)
      const id = words[at] as number
      const result = words[at + 2] as number
      head = (head + 1) | 0
      Atomics.store(words, this.#cqHead, head)
      completed(id, result)
    }
    return (head - first) | 0
  }

  close(): void {
    this.#queues.unmap()
    this.#requests.unmap()
    fs.closeSync(this.#fd)
  }
}

/** Whether the kernel has all of {@link UringOperation}. */
function knowsOperations(c: Libc, fd: number): boolean {
  const entries = Math.max(...Object.values(UringOperation)) + 1
  const probe = new Uint8Array(probeHeadBytes + entries * probeEntryBytes)
  return (
    c.uringRegister(fd, IORING_REGISTER_PROBE, probe, entries) >= 0 &&
    Object.values(UringOperation).every((operation) => {
      const flags = probe[probeHeadBytes + operation * probeEntryBytes + 2] ?? 0
      return (flags & IO_URING_OP_SUPPORTED) !== 0
    })
  )
}
