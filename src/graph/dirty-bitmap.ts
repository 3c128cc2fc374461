import { type BitmapArea, BitmapIterator, HierarchicalBitmap } from '../bytes/index.js'
import { blockError } from '../errors/index.js'
import type { DirtyBitmaps } from './dirty-bitmaps.js'
import type { BlockNode } from './node.js'

/** States as seed row 104 has them, and those that came later; the first that applies wins. */
export type DirtyBitmapStatus = 'inconsistent' | 'frozen' | 'locked' | 'disabled' | 'active'

/** QAPI's `BlockDirtyInfo`, members in the order in which QEMU prints them. Sizes are bytes. */
export interface BlockDirtyInfo {
  readonly name?: string
  readonly recording: boolean
  readonly persistent: boolean
  readonly busy: boolean
  readonly granularity: number
  readonly count: number
  readonly inconsistent?: boolean
}

/** What a caller cannot work with; see {@link DirtyBitmap.check}. */
export interface BitmapDemands {
  /** Something else may be using it: default false. */
  readonly busy?: boolean
  /** It will not be changed, or only in memory: default false. */
  readonly readonly?: boolean
  /** It will not be read: default false. */
  readonly inconsistent?: boolean
}

/** Throws unless `condition` holds: a wrong call, not something that goes wrong. */
function assert(condition: boolean, text: string): asserts condition {
  if (!condition) {
    throw new Error(`dirty bitmap: ${text}`)
  }
}

/**
 * Which parts of a node were written since some time: one bit for each `granularity` bytes. Offsets
 * and lengths are bytes. Made by {@link DirtyBitmaps.create}, lives until {@link release}.
 *
 * Calls that make no sense in the present state throw plain errors, as assertions do.
 */
export class DirtyBitmap {
  readonly #owner: DirtyBitmaps
  #bits: HierarchicalBitmap
  #name: string | undefined
  #disabled = false
  #busy = false
  #readonly = false
  #inconsistent = false
  #successor: DirtyBitmap | undefined = undefined
  #iterators = 0
  #released = false
  /** To be kept in the image. */
  persistent = false
  /** Not to be stored at the next close: it lives on elsewhere (migration). */
  skipStore = false

  /** @internal */
  constructor(owner: DirtyBitmaps, name: string | undefined, size: number, granularity: number) {
    this.#owner = owner
    this.#name = name
    this.#bits = new HierarchicalBitmap(size, granularity)
  }

  get node(): BlockNode {
    return this.#owner.node
  }

  /** Unique on its node; undefined for anonymous ones. */
  get name(): string | undefined {
    return this.#name
  }

  /** Length of the node, bytes. */
  get size(): number {
    return this.#bits.size
  }

  get granularity(): number {
    return this.#bits.granularity
  }

  /** Bytes that are dirty, in whole bits. */
  get count(): number {
    return this.#bits.count
  }

  /** Whether writes to the node are recorded in it. */
  get enabled(): boolean {
    return !this.#disabled
  }

  /** Whether writes to the node are recorded in it or in its successor. */
  get recording(): boolean {
    return !this.#disabled || this.#successor?.enabled === true
  }

  /** In use by an operation: users keep their hands off it. */
  get busy(): boolean {
    return this.#busy
  }

  /** Must not change, and so the data of the node must not either. */
  get readonly(): boolean {
    return this.#readonly
  }

  /** Was not stored when the image was used last: it means nothing and can only be removed. */
  get inconsistent(): boolean {
    return this.#inconsistent
  }

  get successor(): DirtyBitmap | undefined {
    return this.#successor
  }

  /** Whether it is to be stored when the image is closed. */
  get isStored(): boolean {
    return this.persistent && !this.skipStore
  }

  get status(): DirtyBitmapStatus {
    if (this.#inconsistent) {
      return 'inconsistent'
    }
    if (this.#successor !== undefined) {
      return 'frozen'
    }
    if (this.#busy) {
      return 'locked'
    }
    return this.#disabled ? 'disabled' : 'active'
  }

  /** @internal Whether {@link release} has taken it from its node. */
  get released(): boolean {
    return this.#released
  }

  /** What `query-block` and `query-named-block-nodes` show of it. */
  info(): BlockDirtyInfo {
    return {
      ...(this.#name === undefined ? {} : { name: this.#name }),
      recording: this.recording,
      persistent: this.persistent,
      busy: this.#busy,
      granularity: this.granularity,
      count: this.count,
      ...(this.#inconsistent ? { inconsistent: true } : {}),
    }
  }

  /**
   * Refuses a bitmap that is busy, readonly or inconsistent, unless the caller can live with that.
   *
   * @throws BlockError with QEMU's text
   */
  check(allow: BitmapDemands = {}): void {
    if (allow.busy !== true && this.#busy) {
      throw blockError(
        'EBUSY',
        `Bitmap '${this.#name ?? ''}' is currently in use by another operation and cannot be used`,
      )
    }
    if (allow.readonly !== true && this.#readonly) {
      throw blockError('EPERM', `Bitmap '${this.#name ?? ''}' is readonly and cannot be modified`)
    }
    if (allow.inconsistent !== true && this.#inconsistent) {
      throw blockError('EINVAL', `Bitmap '${this.#name ?? ''}' is inconsistent and cannot be used`, {
        hint: 'Try block-dirty-bitmap-remove to delete this bitmap from disk',
      })
    }
  }

  #assertNotFrozen(what: string): void {
    assert(this.#successor === undefined, `a frozen bitmap cannot be ${what}`)
  }

  #assertWritable(what: string): void {
    this.#assertNotFrozen(what)
    assert(!this.#readonly, `a readonly bitmap cannot be ${what}`)
  }

  /** Gives it another name, or none. @throws BlockError EEXIST, EINVAL */
  rename(name: string | undefined): void {
    this.#assertNotFrozen('renamed')
    if (name !== this.#name) {
      this.#owner.checkName(name)
      const before = this.#name
      this.#name = name
      this.#owner.renamed(this, before)
    }
  }

  /** Takes its name away; others may have it then. */
  makeAnonymous(): void {
    this.rename(undefined)
  }

  enable(): void {
    this.#assertNotFrozen('enabled')
    this.#disabled = false
  }

  disable(): void {
    this.#assertNotFrozen('disabled')
    this.#disabled = true
  }

  setBusy(busy: boolean): void {
    this.#busy = busy
  }

  setReadonly(readonly: boolean): void {
    if (readonly !== this.#readonly) {
      this.#readonly = readonly
      this.#owner.readonlyChanged(this)
    }
  }

  /** Marks a persistent bitmap as meaningless, for good. */
  setInconsistent(): void {
    assert(this.persistent, 'only a persistent bitmap can be inconsistent')
    this.#inconsistent = true
    this.#disabled = true
  }

  get(offset: number): boolean {
    return this.#bits.get(offset)
  }

  /** Marks all that the range touches as dirty, whether enabled or not. */
  set(offset: number, bytes: number): void {
    this.#assertWritable('set')
    this.#bits.set(offset, bytes)
  }

  /** Marks a range as clean; it must consist of whole bits. */
  reset(offset: number, bytes: number): void {
    this.#assertWritable('reset')
    this.#bits.reset(offset, bytes)
  }

  /** Marks everything as clean, and returns what was there for {@link restore}. */
  clear(): HierarchicalBitmap {
    this.#assertWritable('cleared')
    const before = this.#bits
    this.#bits = new HierarchicalBitmap(before.size, before.granularity)
    return before
  }

  /** Takes back the contents that {@link clear} or {@link merge} returned. */
  restore(contents: HierarchicalBitmap): void {
    assert(!this.#readonly, 'a readonly bitmap cannot be restored')
    assert(contents.granularity === this.granularity, 'another granularity cannot be restored')
    this.#bits = contents
  }

  /** First dirty offset in `[offset, +bytes)`, or -1. */
  nextDirty(offset: number, bytes?: number): number {
    return this.#bits.nextDirty(offset, bytes)
  }

  /** First clean offset in `[offset, +bytes)`, or -1. */
  nextZero(offset: number, bytes?: number): number {
    return this.#bits.nextZero(offset, bytes)
  }

  /** First run of dirty bytes in `[start, end)`, at most `maxBytes` long. */
  nextDirtyArea(start: number, end?: number, maxBytes?: number): BitmapArea | undefined {
    return this.#bits.nextDirtyArea(start, end, maxBytes)
  }

  /** Visits the dirty bits. While it is not closed the bitmap can be neither truncated nor released. */
  iterate(): DirtyBitmapIterator {
    this.#iterators++
    return new DirtyBitmapIterator(this, () => {
      this.#iterators--
    })
  }

  /** The bits, for storing and loading them. */
  get bits(): HierarchicalBitmap {
    return this.#bits
  }

  /**
   * Adds what is dirty in `source`, which may be on another node, and returns what was there before.
   *
   * @throws BlockError if one of the two cannot be used, or their sizes differ
   */
  merge(source: DirtyBitmap): HierarchicalBitmap {
    this.check()
    source.check({ readonly: true })
    if (source.size !== this.size) {
      throw blockError(
        'EINVAL',
        `Bitmaps are of different sizes (destination size is ${this.size}, ` +
          `source size is ${source.size}) and can't be merged`,
      )
    }
    const before = this.#bits
    this.#bits = before.clone()
    this.#bits.merge(source.bits)
    return before
  }

  /**
   * Adds what is dirty in `source` without asking whether this bitmap is busy: for the operation that
   * keeps it busy.
   */
  mergeInternal(source: DirtyBitmap): void {
    assert(!this.#readonly && !this.#inconsistent, 'it cannot be merged into')
    assert(source.size === this.size, 'sizes differ')
    this.#bits.merge(source.bits)
  }

  /**
   * Freezes the bitmap: what is written from now on goes into an anonymous successor, which is
   * enabled if this one was. One of {@link abdicate} and {@link reclaim} ends that (seed row 106).
   *
   * @throws BlockError if the bitmap is busy or has a successor
   */
  createSuccessor(): DirtyBitmap {
    this.check({ readonly: true, inconsistent: true })
    if (this.#successor !== undefined) {
      throw blockError('EINVAL', 'Cannot create a successor for a bitmap that already has one')
    }
    const child = this.#owner.create({ granularity: this.granularity, size: this.size })
    child.#disabled = this.#disabled
    this.#disabled = true
    this.#successor = child
    this.#busy = true
    return child
  }

  /** Lets the successor record, although the frozen bitmap did not. */
  enableSuccessor(): void {
    assert(this.#successor !== undefined, 'there is no successor')
    this.#successor.enable()
  }

  /**
   * Gives name and persistence to the successor and goes away. Returns the successor.
   *
   * @throws BlockError without a successor
   */
  abdicate(): DirtyBitmap {
    const successor = this.#successor
    if (successor === undefined) {
      throw blockError('EINVAL', "Cannot relinquish control if there's no successor present")
    }
    this.#successor = undefined
    this.#busy = false
    const name = this.#name
    this.makeAnonymous()
    successor.rename(name)
    successor.persistent = this.persistent
    this.persistent = false
    this.release()
    return successor
  }

  /**
   * Takes in what the successor has recorded; the successor goes away. Recording goes on if the
   * successor was.
   *
   * @throws BlockError without a successor
   */
  reclaim(): void {
    const successor = this.#successor
    if (successor === undefined) {
      throw blockError('EINVAL', 'Cannot reclaim a successor when none is present')
    }
    this.#bits.merge(successor.#bits)
    this.#disabled = successor.#disabled
    this.#busy = false
    this.#successor = undefined
    successor.release()
  }

  /** Takes the bitmap from its node. What is stored in the image stays. */
  release(): void {
    assert(this.#iterators === 0, 'it is being iterated over')
    assert(!this.#busy, 'a busy bitmap cannot be released')
    this.#assertNotFrozen('released')
    this.#released = true
    this.#owner.forget(this)
  }

  /** @internal A write to the node: see DirtyTracker. */
  recordWrite(offset: number, bytes: number): void {
    if (!this.#disabled) {
      assert(!this.#readonly, 'a readonly bitmap cannot be set')
      this.#bits.set(offset, bytes)
    }
  }

  /** @internal Refuses a change of length that its user does not expect. */
  assertCanTruncate(): void {
    this.#assertNotFrozen('truncated')
    assert(!this.#busy, 'a busy bitmap cannot be truncated')
    assert(this.#iterators === 0, 'it is being iterated over')
  }

  /** @internal The node has another length (seed row 107). */
  truncate(size: number): void {
    this.#bits.truncate(size)
  }
}

/** Goes through the dirty bits of a {@link DirtyBitmap}; to be closed. */
export class DirtyBitmapIterator extends BitmapIterator {
  #onClose: (() => void) | undefined

  /** @internal */
  constructor(bitmap: DirtyBitmap, onClose: () => void) {
    super(bitmap, 0)
    this.#onClose = onClose
  }

  /** Idempotent. */
  close(): void {
    this.#onClose?.()
    this.#onClose = undefined
  }
}
