import { ioError } from '../errors/index.js'
import {
  type AccountedKind,
  type IoAccounting,
  ReqFlags,
  type ThrottleLimits,
  type ThrottleMember,
} from '../io/index.js'
import type { Wait } from '../sched/index.js'
import type { BlockChild } from './child.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'

/**
 * The requests of a backend: they check their range, are held back while the graph changes, find no
 * medium when the tray is open, and are counted. When none of that is of interest, one field is
 * looked at and the node is called.
 */
export abstract class BackendIo {
  root: BlockChild | undefined = undefined
  /** Flush after every write. */
  writeThrough: boolean
  /** Whether requests may start past the end of the node (creation code grows files). */
  allowBeyondEnd = false
  #held = 0
  readonly #waiting: (() => void)[] = []
  #accounting: IoAccounting | undefined = undefined
  #throttle: ThrottleMember | undefined = undefined
  /** Whether requests must look at more than their range. Hot: read on every request. */
  #attention = false

  constructor(writeThrough: boolean) {
    this.writeThrough = writeThrough
  }

  abstract readonly layer: BlockLayer
  /** How messages call the user. */
  abstract get description(): string
  /** Whether there is a medium that requests can reach. */
  abstract get isAvailable(): boolean
  /** Whether a device model is attached, which may have its tray open. */
  protected abstract get hasDevice(): boolean
  protected abstract drainedBegin(): void
  protected abstract drainedEnd(): void

  get node(): BlockNode {
    if (this.root === undefined) {
      throw ioError('ENOMEDIUM')
    }
    return this.root.node
  }

  /** Bytes, a multiple of 512. */
  get length(): number {
    return this.node.length
  }

  /** Whether writes are durable only after a flush (QEMU's "write cache"). */
  get writeCache(): boolean {
    return !this.writeThrough
  }

  set writeCache(enabled: boolean) {
    this.writeThrough = !enabled
  }

  /** Counts the requests of this backend; undefined: nothing is counted, which costs nothing. */
  get accounting(): IoAccounting | undefined {
    return this.#accounting
  }

  set accounting(accounting: IoAccounting | undefined) {
    this.#accounting = accounting
    this.attend()
  }

  /** The group whose limits the requests of this backend keep, whatever is below it; undefined: none, which costs nothing. */
  get throttleGroup(): string | undefined {
    return this.#throttle?.group.id
  }

  /** Joins the group called `name`, which is made if there is none, and leaves the present one. */
  joinThrottleGroup(name: string): void {
    const joined = this.layer.throttleGroups.join(name)
    this.leaveThrottleGroup()
    this.#throttle = joined
    this.attend()
  }

  /** Requests go as fast as they can, also those that wait. */
  leaveThrottleGroup(): void {
    const left = this.#throttle
    if (left !== undefined) {
      this.#throttle = undefined
      this.attend()
      this.layer.throttleGroups.leave(left)
    }
  }

  /** Changes the limits of the backend's group, for all its members. */
  setThrottleLimits(limits: ThrottleLimits): void {
    if (this.#throttle === undefined) {
      throw new Error(`${this.description} is in no throttle group`)
    }
    this.#throttle.group.limits = limits
  }

  get isHeld(): boolean {
    return this.#held !== 0
  }

  /** New requests wait while this has been called more often than {@link releaseRequests}. */
  holdRequests(): void {
    if (this.#held++ === 0) {
      this.attend()
      this.drainedBegin()
    }
  }

  releaseRequests(): void {
    if (--this.#held === 0) {
      this.attend()
      this.drainedEnd()
      for (const resume of this.#waiting.splice(0)) {
        resume()
      }
    }
  }

  /** @internal Something that requests have to look at came or went. */
  protected attend(): void {
    this.#attention =
      this.#held !== 0 || this.#accounting !== undefined || this.#throttle !== undefined || this.hasDevice
  }

  #check(operation: string, offset: number, bytes: number): BlockNode {
    const node = this.node
    if (!(offset >= 0 && bytes >= 0) || (!this.allowBeyondEnd && offset + bytes > node.length)) {
      throw ioError('EIO', { node: node.name, operation, offset, bytes })
    }
    return node
  }

  #checkAvailable(): void {
    if (this.hasDevice && !this.isAvailable) {
      throw ioError('ENOMEDIUM')
    }
  }

  /** A request that is counted, that may have to wait, or whose medium may be out of reach. */
  #attended(
    kind: AccountedKind,
    operation: string,
    offset: number,
    bytes: number,
    request: (node: BlockNode) => Wait,
  ): Wait {
    const accounting = this.#accounting
    if (accounting === undefined) {
      return this.#admitted(kind, operation, offset, bytes, request)
    }
    try {
      this.#checkAvailable()
      this.#check(operation, offset, bytes)
    } catch (error) {
      accounting.invalid(kind)
      throw error
    }
    return accounting.run(kind, bytes, () => this.#admitted(kind, operation, offset, bytes, request))
  }

  #admitted(
    kind: AccountedKind,
    operation: string,
    offset: number,
    bytes: number,
    request: (node: BlockNode) => Wait,
  ): Wait {
    if (this.#held !== 0) {
      return this.#whenReleased(() => this.#admitted(kind, operation, offset, bytes, request))
    }
    this.#checkAvailable()
    this.#check(operation, offset, bytes)
    const throttled = kind === 'read' || kind === 'write' ? this.#throttle?.admit(kind, bytes) : undefined
    return throttled === undefined
      ? this.#started(operation, offset, bytes, request)
      : throttled.then(() => this.#started(operation, offset, bytes, request))
  }

  /** Much may have happened while it waited. */
  #started(operation: string, offset: number, bytes: number, request: (node: BlockNode) => Wait): Wait {
    if (this.#held !== 0) {
      return this.#whenReleased(() => this.#started(operation, offset, bytes, request))
    }
    this.#checkAvailable()
    return request(this.#check(operation, offset, bytes))
  }

  /** Runs a request once nobody holds requests back. */
  async #whenReleased(request: () => Wait): Promise<void> {
    while (this.#held !== 0) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve)
      })
    }
    const wait = request()
    if (wait !== undefined) {
      await wait
    }
  }

  /** Fills `buffer[bufferOffset, +bytes)`. @throws BlockError EIO outside the node */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset = 0, flags = 0): Wait {
    if (this.#attention) {
      return this.#attended('read', 'read', offset, bytes, (node) =>
        node.read(offset, bytes, buffer, bufferOffset, flags),
      )
    }
    return this.#check('read', offset, bytes).read(offset, bytes, buffer, bufferOffset, flags)
  }

  /** Writes `buffer[bufferOffset, +bytes)`; durable after {@link flush}, or at once with `writeThrough`. */
  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset = 0, flags = 0): Wait {
    const all = this.writeThrough ? flags | ReqFlags.fua : flags
    if (this.#attention) {
      return this.#attended('write', 'write', offset, bytes, (node) =>
        node.write(offset, bytes, buffer, bufferOffset, all),
      )
    }
    return this.#check('write', offset, bytes).write(offset, bytes, buffer, bufferOffset, all)
  }

  /** See IoNode.writeZeroes. */
  writeZeroes(offset: number, bytes: number, flags = 0): Wait {
    const all = this.writeThrough ? flags | ReqFlags.fua : flags
    if (this.#attention) {
      return this.#attended('write', 'write-zeroes', offset, bytes, (node) =>
        node.writeZeroes(offset, bytes, all),
      )
    }
    return this.#check('write-zeroes', offset, bytes).writeZeroes(offset, bytes, all)
  }

  /** See IoNode.discard. */
  discard(offset: number, bytes: number): Wait {
    if (this.#attention) {
      return this.#attended('unmap', 'discard', offset, bytes, (node) => node.discard(offset, bytes))
    }
    return this.#check('discard', offset, bytes).discard(offset, bytes)
  }

  /** Everything completed before is durable afterwards. */
  flush(): Wait {
    if (this.#attention) {
      return this.#attended('flush', 'flush', 0, 0, (node) => node.flush())
    }
    return this.node.flush()
  }
}
