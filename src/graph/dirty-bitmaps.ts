import { isPowerOfTwo } from '../bytes/index.js'
import { blockError, errnoError, ioError } from '../errors/index.js'
import type { DirtyTracker } from '../io/index.js'
import type { Wait } from '../sched/index.js'
import { type BlockDirtyInfo, DirtyBitmap } from './dirty-bitmap.js'
import type { BlockNode } from './node.js'

/** Longest name, bytes. */
const maxNameBytes = 1023
const sectorBytes = 512

export interface NewDirtyBitmap {
  /** Bytes; a power of two of at least 512. */
  readonly granularity: number
  readonly name?: string | undefined
  /** Length of the node, where it is not known yet because the driver is being opened. */
  readonly size?: number
}

/**
 * The dirty bitmaps of a node, the newest first. While there are none the node's write path does not
 * know of this object.
 */
export class DirtyBitmaps implements DirtyTracker {
  readonly node: BlockNode
  /** The oldest first. */
  readonly #bitmaps = new Set<DirtyBitmap>()
  readonly #names = new Map<string, DirtyBitmap>()
  #readonlyCount = 0
  #gate: Promise<void> | undefined = undefined

  constructor(node: BlockNode) {
    this.node = node
  }

  /** From the head of the list on. */
  [Symbol.iterator](): IterableIterator<DirtyBitmap> {
    return [...this.#bitmaps].reverse().values()
  }

  get isEmpty(): boolean {
    return this.#bitmaps.size === 0
  }

  /** Whether there is one that users know by name. */
  get hasNamed(): boolean {
    return this.#names.size !== 0
  }

  /** Whether one must not change, which means that the data must not either. */
  get hasReadonly(): boolean {
    return this.#readonlyCount !== 0
  }

  find(name: string): DirtyBitmap | undefined {
    return this.#names.get(name)
  }

  /** @internal @throws BlockError EEXIST, EINVAL */
  checkName(name: string | undefined): void {
    if (name === undefined) {
      return
    }
    if (this.find(name) !== undefined) {
      throw blockError('EEXIST', `Bitmap already exists: ${name}`)
    }
    if (new TextEncoder().encode(name).length > maxNameBytes) {
      throw blockError('EINVAL', `Bitmap name too long: ${name}`)
    }
  }

  /**
   * Adds a bitmap with nothing dirty at the head of the list. It records from now on.
   *
   * @throws BlockError `Bitmap already exists: %s`, `Bitmap name too long: %s`,
   *   `could not get length of device: …`
   */
  create({ granularity, name, size }: NewDirtyBitmap): DirtyBitmap {
    if (!isPowerOfTwo(granularity) || granularity < sectorBytes) {
      throw new Error(`dirty bitmap: ${granularity} is no granularity`)
    }
    this.checkName(name)
    if (size === undefined && this.node.driver === undefined) {
      throw errnoError('ENOMEDIUM', 'could not get length of device')
    }
    const bitmap = new DirtyBitmap(this, name, size ?? this.node.length, granularity)
    this.#bitmaps.add(bitmap)
    this.renamed(bitmap, undefined)
    this.node.dirtyTracker = this
    return bitmap
  }

  /** What queries show, from the head of the list on (seed row 108). */
  query(): BlockDirtyInfo[] {
    return [...this].map((bitmap) => bitmap.info())
  }

  /** Releases every bitmap that has a name; the image is being closed. */
  releaseNamed(): void {
    for (const bitmap of this) {
      if (bitmap.name !== undefined) {
        bitmap.release()
      }
    }
  }

  /** @internal A bitmap called `before` has a name, another one or none now. */
  renamed(bitmap: DirtyBitmap, before: string | undefined): void {
    if (before !== undefined) {
      this.#names.delete(before)
    }
    if (bitmap.name !== undefined) {
      this.#names.set(bitmap.name, bitmap)
    }
  }

  /** @internal Takes a bitmap out of the list; one that is not in it changes nothing. */
  forget(bitmap: DirtyBitmap): void {
    if (!this.#bitmaps.delete(bitmap)) {
      return
    }
    if (bitmap.name !== undefined) {
      this.#names.delete(bitmap.name)
    }
    if (bitmap.readonly) {
      this.#readonlyCount--
    }
    if (this.isEmpty) {
      this.node.dirtyTracker = undefined
    }
  }

  /** @internal A bitmap in the list has become readonly, or stopped being so. */
  readonlyChanged(bitmap: DirtyBitmap): void {
    if (this.#bitmaps.has(bitmap)) {
      this.#readonlyCount += bitmap.readonly ? 1 : -1
    }
  }

  /** @internal Writes wait until `change` has settled: it decides whether the bitmaps may change. */
  holdWrites(change: Promise<void>): void {
    const gate = change
      .catch(() => undefined)
      .finally(() => {
        if (this.#gate === gate) {
          this.#gate = undefined
        }
      })
    this.#gate = gate
  }

  beforeWrite(): Wait {
    if (this.#gate !== undefined) {
      return this.#whenOpen(this.#gate)
    }
    this.#checkWritable()
    return undefined
  }

  async #whenOpen(gate: Promise<void>): Promise<void> {
    await gate
    this.#checkWritable()
  }

  #checkWritable(): void {
    if (this.#readonlyCount !== 0) {
      throw ioError('EPERM', { node: this.node.name, operation: 'write' })
    }
  }

  wrote(offset: number, bytes: number): void {
    for (const bitmap of this.#bitmaps) {
      // A failed or advisory request may have reached past the end.
      const inside = Math.min(bytes, bitmap.size - offset)
      if (inside > 0) {
        bitmap.recordWrite(offset, inside)
      }
    }
  }

  /** @internal Throws, as an assertion, if a bitmap is in use so that the length must not change. */
  assertCanResize(): void {
    for (const bitmap of this.#bitmaps) {
      bitmap.assertCanTruncate()
    }
  }

  resized(length: number): void {
    this.assertCanResize()
    for (const bitmap of this.#bitmaps) {
      bitmap.truncate(length)
    }
  }
}
