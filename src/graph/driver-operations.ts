import type { Zone, ZoneModel, ZoneOperation } from '../host/index.js'
import type { DebugEventSink } from '../io/index.js'
import type { OptionDict } from '../options/index.js'
import type { Maybe, Wait } from '../sched/index.js'
import type { BlockNode } from './node.js'

/** What a driver does beyond reading and writing. All of it is optional; absent means unsupported. */

/** Internal snapshots of one image. Callers have drained the node. */
export interface SnapshotOperations {
  /**
   * Records the present state as a snapshot.
   * @throws BlockError EEXIST if `id` is taken, ENOSPC/EFBIG at the format's limits
   */
  create(snapshot: NewSnapshot): Promise<void>
  /** Makes the guest see the snapshot again; `id` is exact. @throws BlockError ENOENT */
  apply(id: string): Promise<void>
  /** @throws BlockError ENOENT, with QEMU's text */
  remove(id: string, name: string): Promise<void>
  /** Shows the snapshot instead of the present state, read-only, until close. @throws BlockError ENOENT */
  load(id: string | undefined, name: string | undefined): Promise<void>
}

export interface NewSnapshot {
  /** Empty: the driver chooses the next free number. */
  readonly id: string
  readonly name: string
  readonly dateSeconds: number
  readonly dateNanoseconds: number
  readonly vmClockNanoseconds: bigint
  readonly vmStateSize: number
  /** Instruction count; undefined if not recorded. */
  readonly icount?: bigint
}

/** The area behind the guest disk that holds a machine's memory. Offsets count from its start, bytes. */
export interface VmStateArea {
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait
  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait
}

export interface AmendContext {
  /** Typed by the driver's amend schema; only what the user gave. */
  readonly options: Readonly<Record<string, string | number | boolean>>
  /** Do what may lose access, such as erasing the last key. */
  readonly force: boolean
  /** How far it is, 0 to `total`; the units are the driver's. */
  progress?(done: number, total: number): void
  readonly signal?: AbortSignal
  /** The node, for objects such as secrets. */
  readonly node: BlockNode
}

/** What one node of a reopen shall become. */
export interface ReopenContext {
  readonly node: BlockNode
  /**
   * Options of the node after the change, without the generic ones that every node can change; the
   * driver takes out what it can change, leftovers must be as they were.
   */
  readonly options: OptionDict
  readonly readOnly: boolean
  /** Whether it may be opened for reading alone while nobody writes (`auto-read-only`). */
  readonly autoReadOnly: boolean
  /** Cache mode after the change. */
  readonly direct: boolean
  readonly noFlush: boolean
  /** Whether discards are passed on after the change. */
  readonly unmap: boolean
}

/**
 * A prepared change of one node. Exactly one of `commit` and `abort` is called; neither may fail.
 * Between prepare and commit the permissions of the new graph are settled: a driver that takes
 * outside locks does in `preparePermissions` what depends on them.
 */
export interface ReopenPlan {
  commit(): void
  abort(): void
  /**
   * After every node of the transaction has committed, such as writing dirty bits: may wait. What
   * it throws is reported, but the change stands.
   */
  finish?(): Wait
}

/** The plan of a driver that takes any change of the generic options and has none of its own to change. */
export const nothingToReopen: ReopenPlan = { commit: () => undefined, abort: () => undefined }

/** What a driver offers to those who debug drivers (blkdebug). */
export interface DebugHooks extends DebugEventSink {
  /** The next time `event` happens, the request stops under `tag`. @throws BlockError ENOENT for an unknown event */
  breakpoint(event: string, tag: string): void
  /** Forgets the breakpoints of `tag` and resumes what is stopped. @throws BlockError ENOENT */
  removeBreakpoint(tag: string): void
  /** Continues the request stopped under `tag`. @throws BlockError ENOENT */
  resume(tag: string): void
  isSuspended(tag: string): boolean
}

/** A medium that can be taken out (seed row 112). */
export interface MediumHooks {
  /** Moves the tray. */
  eject?(open: boolean): Wait
  lock?(locked: boolean): Wait
  /** Whether the medium was changed since the last call; undefined: cannot tell. */
  changed?(): boolean | undefined
}

/** A device made of zones that are written from their start on. Callers have checked the range. Bytes. */
export interface ZoneOperations {
  readonly model: ZoneModel
  /** Length of all zones but perhaps the last. */
  readonly zoneBytes: number
  report(offset: number, count: number): Zone[]
  /** @throws BlockError EINVAL unless the range is made of whole zones */
  manage(operation: ZoneOperation, offset: number, bytes: number): Wait
  /**
   * Writes at the write pointer of the zone that starts at `offset`, and says where that was.
   * @throws BlockError EINVAL if no zone starts there; ENOSPC if the rest of the zone is too small
   */
  append(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<number>
}

/** Passphrases given after open (seed rows 102, 103). */
export interface KeyHooks {
  readonly encrypted: boolean
  readonly hasKey: boolean
  /** Absent: keys are only taken when the image is opened. @throws BlockError EINVAL for a wrong key; {@link hasKey} is false then */
  setKey?(key: Uint8Array): Maybe<void>
}

/**
 * Keeps dirty bitmaps in an image. A driver that has one also loads what is stored when it opens the
 * image, and stores what is persistent when it closes or inactivates it.
 */
export interface BitmapStore {
  /** Whether images of this very kind (version, features) can hold bitmaps. */
  readonly supported: boolean
  /** @throws BlockError with QEMU's text if a further bitmap like this could not be stored */
  checkNew(name: string, granularity: number): Maybe<void>
  /** Deletes a stored bitmap; one that is not there is no error. @throws BlockError */
  remove(name: string): Promise<void>
}
