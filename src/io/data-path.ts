import type { RangeLock, Wait } from '../sched/index.js'
import type { IoNode } from './node.js'

/**
 * Receives the extents of a guest range in order and without gaps. The caller owns it and reuses it.
 * Each method returns false when no more is wanted; the driver then stops.
 *
 * `node` is where the bytes live and `offset` their place there. For a protocol node reporting its
 * own contents `node` is the node itself.
 */
export interface ExtentSink {
  data(bytes: number, node: IoNode, offset: number, flags: number): boolean
  /** Reads as zeroes. `node`/`offset` are given when host clusters stand behind it all the same. */
  zero(bytes: number, node?: IoNode, offset?: number): boolean
  /**
   * Not in this layer: read through to the backing node, or zeroes without one. `node`/`offset` are
   * given when host space stands by all the same.
   */
  unallocated(bytes: number, node?: IoNode, offset?: number): boolean
  /** Must be decoded by the driver (`readEncoded`), such as a compressed cluster. */
  encoded(bytes: number, cookie: number): boolean
}

/** How much of a zero or discard request the driver carried out; 0 = "cannot here", the core falls back. */
export interface RangeResult {
  bytes: number
}

/**
 * The prefix of a write that goes to one place, filled by `resolveWrite`. One plan object serves
 * many requests; the driver sets every field through {@link inPlace} or {@link allocate}.
 */
export class WritePlan {
  /** Guest bytes of the request covered, from its start; 0 only together with `conflict`. */
  bytes = 0
  target!: IoNode
  targetOffset = 0
  /** Whether `commitWrite` or `abortWrite` is due. */
  allocates = false
  /** Guest bytes before and after the covered bytes that the new allocation must also hold. */
  headBytes = 0
  tailBytes = 0
  /** The allocated host range is known to read as zeroes already. */
  targetIsZero = false
  /** Set by the core before `commitWrite`: guest data was copied into head or tail. */
  copied = false
  /** Set when another allocating write in flight overlaps: the core waits for it and resolves again. */
  conflict = false
  /** The driver's own note for commit and abort. */
  token: unknown = undefined
  /** Guest range held while the allocation is in flight. */
  lock: object | undefined = undefined
  lockStart = 0
  lockEnd = 0

  /** The data overwrites what is there; nothing to commit. */
  inPlace(bytes: number, target: IoNode, targetOffset: number): void {
    this.bytes = bytes
    this.target = target
    this.targetOffset = targetOffset
    this.allocates = false
    this.headBytes = 0
    this.tailBytes = 0
    this.copied = false
    this.conflict = false
    this.token = undefined
  }

  /**
   * Tries to hold the guest range `[start, end)` for an allocation. Must be called in the same
   * synchronous block that decides to allocate. False: leave the metadata alone and return; the
   * core waits and resolves again.
   */
  reserve(locks: RangeLock, start: number, end: number): boolean {
    this.lockStart = start
    this.lockEnd = end
    this.lock = locks.tryLock(start, end)
    this.conflict = this.lock === undefined
    if (this.conflict) {
      this.bytes = 0
      this.allocates = false
    }
    return !this.conflict
  }

  /** New host space for the reserved range; `targetOffset` is where the first covered guest byte goes. */
  allocate(
    bytes: number,
    target: IoNode,
    targetOffset: number,
    headBytes: number,
    tailBytes: number,
    targetIsZero: boolean,
    token: unknown,
  ): void {
    this.bytes = bytes
    this.target = target
    this.targetOffset = targetOffset
    this.allocates = true
    this.headBytes = headBytes
    this.tailBytes = tailBytes
    this.targetIsZero = targetIsZero
    this.copied = false
    this.token = token
  }
}

/**
 * The path of a format driver: it says where guest bytes live, the core moves them.
 * Ranges lie within the node's length and are multiples of its request alignment.
 */
export interface MapPath {
  /** Reports the extents of the range to `out`. Synchronous when the metadata is cached. Also serves block status. */
  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait
  /**
   * Decides where the data at `offset` goes and fills `plan` for a prefix of the range. Allocations
   * are accounted for (refcounts) before the plan exists, and are reserved with `plan.reserve`.
   */
  resolveWrite?(offset: number, bytes: number, flags: number, plan: WritePlan): Wait
  /** The data (and copied head and tail) is written: make it visible. */
  commitWrite?(plan: WritePlan): Wait
  /** The data could not be written: give the allocation back. May leave it leaked, never linked. */
  abortWrite?(plan: WritePlan): Wait
  /** Makes a prefix of the range read as zeroes without writing data. */
  zero?(offset: number, bytes: number, flags: number, out: RangeResult): Wait
  /** Forgets the contents of a prefix of the range. */
  discard?(offset: number, bytes: number, out: RangeResult): Wait
  /** Fills the buffer with `bytes` guest bytes at `offset`, which lie within the extent reported with `cookie`. */
  readEncoded?(cookie: number, offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait
  /**
   * Turns `bytes` bytes as they stand at `hostOffset` of the target into the guest bytes at `offset`, in
   * place. Called for extents reported with `ExtentFlags.encoded`.
   */
  decode?(offset: number, hostOffset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void
  /**
   * The reverse of {@link decode}. A path that has it gets everything that it stores through it; the
   * buffer is the core's own, never the caller's.
   */
  encode?(offset: number, hostOffset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): void
  /** Stores the range compressed; whole clusters except at the end of the node. `bytes` 0 ends a stream. */
  writeCompressed?(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait
}

/** The path of protocol drivers and of filters that touch data: they move the bytes. */
export interface DirectPath {
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait
  write?(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait
  /** As `MapPath.writeCompressed`. */
  writeCompressed?(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait
  zero?(offset: number, bytes: number, flags: number, out: RangeResult): Wait
  discard?(offset: number, bytes: number, out: RangeResult): Wait
  /**
   * As `MapPath.resolveRead`, for block status only: it may end early where another kind of extent begins.
   * `'allocation'` permits skipping costly zero detection.
   */
  status?(offset: number, bytes: number, want: 'zero' | 'allocation', out: ExtentSink): Wait
}
