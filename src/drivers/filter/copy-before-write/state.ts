import type { HierarchicalBitmap } from '../../../bytes/index.js'
import { HierarchicalBitmap as Bitmap } from '../../../bytes/index.js'
import { codeOf, type ErrnoName, ioError } from '../../../errors/index.js'
import { PassThrough, type SnapshotSource } from '../../../formatkit/filter/index.js'
import { type BlockChild, type BlockNode, defaultChildPermissions, Perm, Role } from '../../../graph/index.js'
import { ExtentFlags, type ExtentSink, type RangeResult, ReqFlags } from '../../../io/index.js'
import { type Clock, RangeLock, type Wait } from '../../../sched/index.js'

export interface CopySettings {
  /** What is part of the snapshot. Its granularity is {@link clusterSize}. */
  readonly access: HierarchicalBitmap
  /** Bytes copied at once. */
  readonly clusterSize: number
  /** Whether a failure to copy ends the snapshot rather than the write. */
  readonly breakSnapshot: boolean
  /** How long copying may take, nanoseconds; 0: any time. */
  readonly timeout: number
  readonly clock: Clock
}

/**
 * An open copy-before-write node. A write waits until the old contents of every cluster it touches
 * are in the target; readers of the snapshot get them from there, and everything else from the image,
 * where writes wait for such reads.
 */
export class CopyBeforeWrite extends PassThrough implements SnapshotSource {
  readonly #node: BlockNode
  readonly #target: BlockChild
  readonly #settings: CopySettings
  /** Clusters still to be copied when they are written, and those that have been. */
  readonly #todo: HierarchicalBitmap
  readonly #done: HierarchicalBitmap
  /** Clusters being copied. */
  readonly #copying = new RangeLock()
  /** Ranges of the image that readers of the snapshot are at. */
  readonly #reading = new Set<{
    readonly start: number
    readonly end: number
    readonly over: Promise<void>
  }>()
  /** Why there is no snapshot any more. */
  #broken: ErrnoName | undefined = undefined

  constructor(node: BlockNode, file: BlockChild, target: BlockChild, settings: CopySettings) {
    super(file)
    this.#node = node
    this.#target = target
    this.#settings = settings
    this.#todo = settings.access.clone()
    this.#done = new Bitmap(settings.access.size, settings.clusterSize)
  }

  /** The target is only written; its own users may write it too, but not resize it. */
  childPermissions(child: BlockChild, perm: number, shared: number): { perm: number; shared: number } {
    if ((child.role & Role.filtered) === 0) {
      return { perm: Perm.write, shared: Perm.all & ~Perm.resize }
    }
    const wanted = defaultChildPermissions(this.#node, child, perm, shared)
    return this.#node.parents.length === 0
      ? wanted
      : {
          perm: wanted.perm | Perm.consistentRead,
          shared: wanted.shared & ~(Perm.write | Perm.resize),
        }
  }

  override write(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    return this.#afterCopy(offset, bytes, flags, () =>
      super.write(offset, bytes, buffer, bufferOffset, flags),
    )
  }

  override zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    return this.#afterCopy(offset, bytes, flags, () => super.zero(offset, bytes, flags, out))
  }

  override discard(offset: number, bytes: number, out: RangeResult): Wait {
    return this.#afterCopy(offset, bytes, 0, () => super.discard(offset, bytes, out))
  }

  #afterCopy(offset: number, bytes: number, flags: number, request: () => Wait): Wait {
    if ((flags & ReqFlags.writeUnchanged) !== 0 || this.#broken !== undefined) {
      return request()
    }
    const { clusterSize, access } = this.#settings
    const start = Math.min(offset - (offset % clusterSize), access.size)
    const end = Math.min(Math.ceil((offset + bytes) / clusterSize) * clusterSize, access.size)
    const clean =
      start >= end || (this.#todo.nextDirty(start, end - start) < 0 && !this.#copying.isLocked(start, end))
    return clean && this.#reading.size === 0 ? request() : this.#copyFirst(start, end, request)
  }

  async #copyFirst(start: number, end: number, request: () => Wait): Promise<void> {
    try {
      await this.#inTime(this.#copyRange(start, end))
    } catch (error) {
      if (!this.#settings.breakSnapshot) {
        throw error
      }
      this.#broken ??= codeOf(error)
    }
    for (const read of [...this.#reading]) {
      if (read.start < end && start < read.end) {
        await read.over
      }
    }
    const wait = request()
    if (wait !== undefined) {
      await wait
    }
  }

  /** What takes too long goes on in the background; the node's close waits for it. */
  async #inTime(copy: Promise<void>): Promise<void> {
    const { timeout, clock } = this.#settings
    if (timeout === 0) {
      await copy
      return
    }
    let cancel: () => void = () => undefined
    const late = new Promise<void>((_, reject) => {
      cancel = clock.after(timeout, () => {
        reject(ioError('ETIMEDOUT', { node: this.#node.name, operation: 'write' }))
      })
    })
    void this.#node.requests.track(copy, 'write', 0, 0).catch(() => undefined)
    try {
      await Promise.race([copy, late])
    } finally {
      cancel()
    }
  }

  async #copyRange(start: number, end: number): Promise<void> {
    const { clusterSize, access } = this.#settings
    const lock = await this.#copying.lock(start, end)
    try {
      for (let at = start; at < end; at += clusterSize) {
        if (this.#todo.get(at)) {
          const bytes = Math.min(clusterSize, access.size - at)
          await this.#copyCluster(at, bytes)
          this.#todo.reset(at, bytes)
        }
        this.#done.set(at, Math.min(clusterSize, access.size - at))
      }
    } finally {
      this.#copying.release(lock)
    }
  }

  async #copyCluster(offset: number, bytes: number): Promise<void> {
    const data = new Uint8Array(bytes)
    const read = this.file.node.read(offset, bytes, data, 0, 0)
    if (read !== undefined) {
      await read
    }
    const written = this.#target.node.write(offset, bytes, data, 0, ReqFlags.serialising)
    if (written !== undefined) {
      await written
    }
  }

  /** How much of the range, from its start, is in the same place. */
  #place(offset: number, bytes: number): { copied: boolean; bytes: number } {
    if (this.#broken !== undefined || this.#settings.access.nextZero(offset, bytes) >= 0) {
      throw ioError('EACCES', { node: this.#node.name, operation: 'read', offset, bytes })
    }
    const copied = this.#done.get(offset)
    const other = copied ? this.#done.nextZero(offset, bytes) : this.#done.nextDirty(offset, bytes)
    return { copied, bytes: other < 0 ? bytes : other - offset }
  }

  async readSnapshot(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    for (let done = 0; done < bytes; ) {
      const at = offset + done
      const place = this.#place(at, bytes - done)
      if (place.copied) {
        await this.#target.node.read(at, place.bytes, buffer, bufferOffset + done, 0)
      } else {
        await this.#readFrozen(at, place.bytes, buffer, bufferOffset + done)
      }
      done += place.bytes
    }
  }

  async #readFrozen(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void> {
    let over: () => void = () => undefined
    const read = {
      start: offset,
      end: offset + bytes,
      over: new Promise<void>((resolve) => {
        over = resolve
      }),
    }
    this.#reading.add(read)
    try {
      await this.file.node.read(offset, bytes, buffer, bufferOffset, 0)
    } finally {
      this.#reading.delete(read)
      over()
    }
  }

  snapshotStatus(offset: number, bytes: number, out: ExtentSink): Wait {
    const place = this.#place(offset, bytes)
    const { node } = place.copied ? this.#target : this.file
    out.data(place.bytes, node, offset, ExtentFlags.raw)
    return undefined
  }

  discardSnapshot(offset: number, bytes: number): Wait {
    const { clusterSize, access } = this.#settings
    const start = Math.ceil(offset / clusterSize) * clusterSize
    const end = Math.floor((offset + bytes) / clusterSize) * clusterSize
    if (end <= start) {
      return undefined
    }
    access.reset(start, end - start)
    this.#todo.reset(start, end - start)
    return this.#target.node.discard(start, end - start)
  }

  exactFilename(): string {
    return this.file.node.filename
  }
}
