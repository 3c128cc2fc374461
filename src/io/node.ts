import { ioError } from '../errors/index.js'
import { RangeLock, type Wait } from '../sched/index.js'
import type { IoAccounting } from './accounting.js'
import { type BlockStatus, nodeStatus } from './block-status.js'
import type { DirectPath, MapPath } from './data-path.js'
import type { DebugEventSink } from './debug-events.js'
import type { DirtyTracker } from './dirty-tracker.js'
import { discardRange } from './discard.js'
import { ReqFlags } from './flags.js'
import { type FlushPath, FlushState } from './flush.js'
import { readGeneral, writeGeneral } from './general.js'
import { type BlockLimits, defaultLimits, maxLength, maxRequestBytes } from './limits.js'
import { ReadRuns } from './mapped-read.js'
import { WriteRuns } from './mapped-write.js'
import { type RequestKind, RequestSet } from './requests.js'
import { writeZeroesRange } from './zero.js'

export type DetectZeroes = 'off' | 'on' | 'unmap'

/**
 * The I/O half of a block node: what a request passes on its way to the driver.
 *
 * Order: range check, wait for serialising requests, copy-on-read, alignment padding, split by
 * limits, driver, fallback. A request that needs none of these goes straight to the driver and,
 * when data and metadata are at hand, completes without a promise.
 *
 * Offsets and sizes are bytes. Buffers belong to the caller and must stay untouched until the
 * returned wait settles. Errors are BlockErrors, thrown or rejected.
 */
export abstract class IoNode {
  /** Name for messages. */
  abstract get nodeName(): string
  /** Node that unallocated extents are read from. */
  abstract get backingNode(): IoNode | undefined
  /** Node that a filter without its own path forwards to. */
  abstract get filteredNode(): IoNode | undefined
  /** Nodes to flush after this one. */
  abstract get flushNodes(): readonly IoNode[]

  /** Bytes, a multiple of 512. */
  length = 0
  readOnly = true
  limits: BlockLimits = defaultLimits()
  map: MapPath | undefined = undefined
  direct: DirectPath | undefined = undefined
  flushPath: FlushPath | undefined = undefined
  /** Hears of events of requests that this node carries out for others; set if its driver debugs. */
  debug: DebugEventSink | undefined = undefined
  /** The same of the node's primary child: it hears what this node's driver does. */
  childDebug: DebugEventSink | undefined = undefined
  /** Request flags that the driver carries out itself. */
  supportedWriteFlags = 0
  supportedZeroFlags = 0
  /** Whether the driver can have backing nodes: what it does not allocate is then not its own zero. */
  supportsBacking = false
  /** Whether the driver talks to the outside: its own offsets are host offsets. */
  isProtocol = false
  detectZeroes: DetectZeroes = 'off'
  /** Whether discards are passed on (`discard=unmap`). */
  unmapAllowed = false
  /** Whether flushes reach the disk (`cache.no-flush=off`). */
  noFlush = false
  /** Users that asked for copy-on-read. */
  copyOnRead = 0
  /** Granularity of copy-on-read and of allocations, bytes; 0 if the driver has none. */
  clusterSize = 0

  readonly requests = new RequestSet()
  /** Guest ranges with an allocation in flight. */
  readonly allocations = new RangeLock()
  readonly flushState = new FlushState(this)
  /** Records what is written. Undefined while the node has no dirty bitmaps: writes then pay this one test. */
  dirtyTracker: DirtyTracker | undefined = undefined
  /** Called after each successful write, zero or discard, with the guest range. */
  writeObservers: ((offset: number, bytes: number) => void)[] | undefined = undefined
  /** Counts the node's requests, if anyone asked for that. */
  accounting: IoAccounting | undefined = undefined
  /** End of the furthest write so far, bytes. */
  highestWrite = 0
  /** The next write that ends behind this offset (bytes) is told to {@link onThreshold}. */
  writeThreshold = Number.POSITIVE_INFINITY
  /** Called before a write goes past the threshold, which is lifted then. Bytes. */
  onThreshold: ((exceeded: number, threshold: number) => void) | undefined = undefined
  /** Called when a write grew the node. */
  onGrow: (() => void) | undefined = undefined

  readonly #reads = new ReadRuns(this)
  readonly #writes = new WriteRuns(this)

  /** Fills `buffer[bufferOffset, +bytes)`. What lies past the end of the node reads as zeroes. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.accounting === undefined
      ? this.#read(offset, bytes, buffer, bufferOffset, flags)
      : this.accounting.run('read', bytes, () => this.#read(offset, bytes, buffer, bufferOffset, flags))
  }

  #read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const limits = this.limits
    if (
      this.requests.mustCheck ||
      this.copyOnRead !== 0 ||
      flags !== 0 ||
      offset + bytes > this.length ||
      (limits.requestAlignment !== 1 &&
        (offset % limits.requestAlignment !== 0 || bytes % limits.requestAlignment !== 0)) ||
      (limits.maxTransfer !== 0 && bytes > limits.maxTransfer)
    ) {
      return readGeneral(this, offset, bytes, buffer, bufferOffset, flags)
    }
    const wait = this.readDriver(offset, bytes, buffer, bufferOffset, 0)
    return wait === undefined ? undefined : this.requests.track(wait, 'read', offset, bytes)
  }

  /** Writes `buffer[bufferOffset, +bytes)`. Durable after the next {@link flush}, or at once with `fua`. */
  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.accounting === undefined
      ? this.#write(offset, bytes, buffer, bufferOffset, flags)
      : this.accounting.run('write', bytes, () => this.#write(offset, bytes, buffer, bufferOffset, flags))
  }

  #write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const limits = this.limits
    if (
      this.readOnly ||
      this.requests.mustCheck ||
      this.dirtyTracker !== undefined ||
      this.detectZeroes !== 'off' ||
      this.debug !== undefined ||
      flags !== 0 ||
      offset + bytes > maxLength ||
      offset + bytes > this.writeThreshold ||
      (limits.requestAlignment !== 1 &&
        (offset % limits.requestAlignment !== 0 || bytes % limits.requestAlignment !== 0)) ||
      (limits.maxTransfer !== 0 && bytes > limits.maxTransfer)
    ) {
      return writeGeneral(this, offset, bytes, buffer, bufferOffset, flags)
    }
    let wait: Wait
    try {
      wait = this.writeDriver(offset, bytes, buffer, bufferOffset, 0)
    } catch (error) {
      this.notWritten(offset, bytes)
      throw error
    }
    if (wait === undefined) {
      this.written(offset, bytes)
      return undefined
    }
    return this.#tracked(wait, offset, bytes)
  }

  /**
   * Makes the range read as zeroes. `mayUnmap` permits deallocating it, `noFallback` refuses to
   * write zero data (ENOTSUP instead).
   */
  writeZeroes(offset: number, bytes: number, flags: number): Wait {
    const all = flags | ReqFlags.zeroWrite
    return this.accounting === undefined
      ? writeZeroesRange(this, offset, bytes, all)
      : this.accounting.run('write', bytes, () => writeZeroesRange(this, offset, bytes, all))
  }

  /** Tells that the contents of the range are no longer needed. Advisory: it may do nothing. */
  discard(offset: number, bytes: number): Wait {
    return this.accounting === undefined
      ? discardRange(this, offset, bytes)
      : this.accounting.run('unmap', bytes, () => discardRange(this, offset, bytes))
  }

  /** Everything completed before is durable afterwards. */
  flush(): Wait {
    return this.accounting === undefined
      ? this.flushState.flush()
      : this.accounting.run('flush', 0, () => this.flushState.flush())
  }

  /**
   * Describes the extent at `offset` in this layer alone, at most `bytes` long.
   * `'allocation'` asks only where data is allocated; `'zero'` also looks for zeroes.
   */
  status(offset: number, bytes: number, want: 'zero' | 'allocation', out: BlockStatus): Wait {
    return nodeStatus(this, offset, bytes, want, out)
  }

  /** @internal The driver's read, past all checks. */
  readDriver(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const direct = this.direct
    if (direct !== undefined) {
      return direct.read(offset, bytes, buffer, bufferOffset, flags)
    }
    if (this.map !== undefined) {
      return this.#reads.read(offset, bytes, buffer, bufferOffset)
    }
    const filtered = this.filteredNode
    if (filtered === undefined) {
      throw ioError('ENOMEDIUM', { node: this.nodeName, operation: 'read', offset, bytes })
    }
    return filtered.read(offset, bytes, buffer, bufferOffset, flags)
  }

  /** @internal The driver's write, past all checks. */
  writeDriver(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    if ((flags & ReqFlags.writeCompressed) !== 0) {
      return this.#writeCompressed(offset, bytes, buffer, bufferOffset, flags)
    }
    const direct = this.direct
    if (direct !== undefined) {
      if (direct.write === undefined) {
        throw ioError('ENOTSUP', { node: this.nodeName, operation: 'write', offset, bytes })
      }
      return direct.write(offset, bytes, buffer, bufferOffset, flags)
    }
    if (this.map !== undefined) {
      if (this.map.resolveWrite === undefined) {
        throw ioError('ENOTSUP', { node: this.nodeName, operation: 'write', offset, bytes })
      }
      return this.writeMapped(offset, bytes, buffer, bufferOffset, flags)
    }
    const filtered = this.filteredNode
    if (filtered === undefined) {
      throw ioError('ENOMEDIUM', { node: this.nodeName, operation: 'write', offset, bytes })
    }
    return filtered.write(offset, bytes, buffer, bufferOffset, flags)
  }

  /** @internal */
  writeMapped(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.#writes.write(offset, bytes, buffer, bufferOffset, flags)
  }

  #writeCompressed(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    if (this.map?.writeCompressed !== undefined) {
      return this.map.writeCompressed(offset, bytes, buffer, bufferOffset)
    }
    const direct = this.direct
    if (direct?.writeCompressed !== undefined) {
      return direct.writeCompressed(offset, bytes, buffer, bufferOffset)
    }
    const filtered = this.filteredNode
    // A filter that looks at writes must not be passed by.
    if (filtered !== undefined && direct === undefined) {
      return filtered.write(offset, bytes, buffer, bufferOffset, flags)
    }
    throw ioError('ENOTSUP', { node: this.nodeName, operation: 'write', offset, bytes })
  }

  /** Whether the driver takes compressed writes. */
  get canWriteCompressed(): boolean {
    const path = this.map ?? this.direct
    return path === undefined
      ? (this.filteredNode?.canWriteCompressed ?? false)
      : path.writeCompressed !== undefined
  }

  async #tracked(wait: Promise<void>, offset: number, bytes: number): Promise<void> {
    try {
      await this.requests.track(wait, 'write', offset, bytes)
    } catch (error) {
      this.notWritten(offset, bytes)
      throw error
    }
    this.written(offset, bytes)
  }

  /** @internal Keeps `wait` in flight on this node. */
  track(wait: Wait, kind: RequestKind, offset: number, bytes: number): Wait {
    return wait === undefined ? undefined : this.requests.track(wait, kind, offset, bytes)
  }

  /** @internal To be called before a write: tells once that it goes past the threshold. */
  checkThreshold(offset: number, bytes: number): void {
    const threshold = this.writeThreshold
    if (offset + bytes > threshold) {
      this.writeThreshold = Number.POSITIVE_INFINITY
      this.onThreshold?.(offset + bytes - threshold, threshold)
    }
  }

  /** @internal Bookkeeping after a successful write or zero request. */
  written(offset: number, bytes: number): void {
    if (offset + bytes > this.highestWrite) {
      this.highestWrite = offset + bytes
    }
    this.changed(offset, bytes)
  }

  /** @internal Bookkeeping after contents changed: a write, zero or discard. */
  changed(offset: number, bytes: number): void {
    this.flushState.writeGeneration++
    const end = offset + bytes
    if (end > this.length) {
      this.length = Math.ceil(end / 512) * 512
      this.onGrow?.()
      this.dirtyTracker?.resized(this.length)
    }
    this.dirtyTracker?.wrote(offset, bytes)
    if (this.writeObservers !== undefined) {
      for (const observer of this.writeObservers) {
        observer(offset, bytes)
      }
    }
  }

  /** @internal Bookkeeping after a failed write, zero or discard: a part of it may have happened. */
  notWritten(offset: number, bytes: number): void {
    this.flushState.writeGeneration++
    this.dirtyTracker?.wrote(offset, bytes)
  }

  /** @internal Largest request in bytes to hand to the driver. */
  get maxTransfer(): number {
    const limit = this.limits.maxTransfer
    return limit === 0 ? maxRequestBytes : limit
  }
}
