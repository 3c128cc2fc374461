import type { HierarchicalBitmap } from '../../../bytes/index.js'
import { HierarchicalBitmap as Bitmap } from '../../../bytes/index.js'
import { codeOf, type ErrnoName, ioError, isBlockError } from '../../../errors/index.js'
import {
  type BlockCopier,
  type CopyFault,
  PassThrough,
  type SnapshotSource,
} from '../../../formatkit/filter/index.js'
import {
  type BlockChild,
  type BlockNode,
  backingChainNext,
  chainContains,
  defaultChildPermissions,
  Perm,
  Role,
} from '../../../graph/index.js'
import {
  ChainStatus,
  chainStatus,
  ExtentFlags,
  type ExtentSink,
  type RangeResult,
  ReqFlags,
} from '../../../io/index.js'
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

/** Bytes copied at once, unless a cluster is larger. */
const maxPieceBytes = 1 << 20

async function settled(wait: Wait): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}

/**
 * An open copy-before-write node. A write waits until the old contents of every cluster it touches
 * are in the target; readers of the snapshot get them from there, and everything else from the image,
 * where writes wait for such reads.
 */
export class CopyBeforeWrite extends PassThrough implements SnapshotSource, BlockCopier {
  readonly #node: BlockNode
  readonly #target: BlockChild
  readonly #settings: CopySettings
  /** Clusters still to be copied when they are written, and those that have been. */
  readonly todo: HierarchicalBitmap
  readonly #done: HierarchicalBitmap
  /** Clusters being copied. */
  readonly #copying = new RangeLock()
  /** Ranges of the image that readers of the snapshot are at. */
  readonly #reading = new Set<{
    readonly start: number
    readonly end: number
    readonly over: Promise<void>
  }>()
  skipUnallocated = false
  compress = false
  onCopied: ((bytes: number) => void) | undefined = undefined
  /** Why there is no snapshot any more. */
  #broken: ErrnoName | undefined = undefined

  constructor(node: BlockNode, file: BlockChild, target: BlockChild, settings: CopySettings) {
    super(file)
    this.#node = node
    this.#target = target
    this.#settings = settings
    this.todo = settings.access.clone()
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
      start >= end || (this.todo.nextDirty(start, end - start) < 0 && !this.#copying.isLocked(start, end))
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

  get clusterSize(): number {
    return this.#settings.clusterSize
  }

  async copy(offset: number, bytes: number): Promise<CopyFault | undefined> {
    const lock = await this.#copying.lock(offset, offset + bytes)
    try {
      return await this.#copyLocked(offset, offset + bytes)
    } finally {
      this.#copying.release(lock)
    }
  }

  async #copyRange(start: number, end: number): Promise<void> {
    const lock = await this.#copying.lock(start, end)
    try {
      const fault = await this.#copyLocked(start, end)
      if (fault !== undefined) {
        throw fault.error
      }
      this.#done.set(start, end - start)
    } finally {
      this.#copying.release(lock)
    }
  }

  /** Copies the clusters of the range that are left to do, as much at a time as is alike. */
  async #copyLocked(start: number, end: number): Promise<CopyFault | undefined> {
    const { clusterSize, access } = this.#settings
    const status = new ChainStatus()
    for (let at = start; at < end; ) {
      const area = this.todo.nextDirtyArea(at, end, Math.max(clusterSize, maxPieceBytes))
      if (area === undefined) {
        break
      }
      const from = area.offset - (area.offset % clusterSize)
      const length =
        Math.min(Math.ceil((area.offset + area.bytes) / clusterSize) * clusterSize, access.size) - from
      let reading = true
      try {
        await this.#status(from, length, status)
        const bytes = status.bytes
        if (status.allocated || !this.skipUnallocated) {
          if (status.zero) {
            reading = false
            await settled(this.#target.node.writeZeroes(from, bytes, this.#serialising))
          } else {
            const data = new Uint8Array(bytes)
            await settled(this.file.node.read(from, bytes, data, 0, 0))
            reading = false
            await this.#writeTarget(from, data)
          }
        }
        this.todo.reset(from, bytes)
        this.#done.set(from, bytes)
        this.onCopied?.(bytes)
        at = from + bytes
      } catch (error) {
        return { error, reading }
      }
    }
    return undefined
  }

  async #writeTarget(offset: number, data: Uint8Array): Promise<void> {
    const { node } = this.#target
    if (this.compress) {
      try {
        await settled(node.write(offset, data.length, data, 0, ReqFlags.writeCompressed))
        return
      } catch (error) {
        // Compression overwrites nothing, so that what a failed try has left must be written over without it.
        if (codeOf(error) !== 'EIO') {
          throw error
        }
      }
    }
    await settled(node.write(offset, data.length, data, 0, this.#serialising))
  }

  /** Readers of a target on top of the image must not see clusters half copied. */
  get #serialising(): number {
    return chainContains(this.#target.node, this.file.node) ? ReqFlags.serialising : 0
  }

  /** What whole clusters from `offset` on have in common; where they are mixed, or cannot be told, one counts as data. */
  async #status(offset: number, bytes: number, out: ChainStatus): Promise<void> {
    const { clusterSize } = this.#settings
    const image = this.file.node
    const base = this.skipUnallocated ? backingChainNext(image) : undefined
    try {
      await chainStatus(image, base, offset, bytes, 'zero', out)
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      // Reading tells what is wrong.
      out.bytes = 0
    }
    if (out.bytes < bytes) {
      const whole = out.bytes - (out.bytes % clusterSize)
      if (whole === 0) {
        out.zero = false
        out.allocated = true
      }
      out.bytes = whole === 0 ? Math.min(clusterSize, bytes) : whole
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
    this.todo.reset(start, end - start)
    return this.#target.node.discard(start, end - start)
  }

  exactFilename(): string {
    return this.file.node.filename
  }
}
