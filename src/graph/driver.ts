import type { Host } from '../host/index.js'
import type { BlockLimits, DirectPath, FlushPath, IoNode, MapPath } from '../io/index.js'
import type { OptionDict, OptionSchema, OptionTree } from '../options/index.js'
import type { Maybe, Wait } from '../sched/index.js'
import type { AioContext } from './aio-context.js'
import type { BlockChild } from './child.js'
import type {
  AmendContext,
  BitmapStore,
  DebugHooks,
  KeyHooks,
  MediumHooks,
  ReopenContext,
  ReopenPlan,
  SnapshotOperations,
  VmStateArea,
  ZoneOperations,
} from './driver-operations.js'
import type { OpenFlags } from './flags.js'
import type { FormatDetails } from './format-details.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'

/**
 * A block driver: the light half, known before any image is opened. The heavy half is loaded on
 * first use, so that a command pays only for the drivers it needs.
 *
 * How to write one: CONTRIBUTING.md, "Add a driver".
 */
export interface BlockDriver {
  /** QAPI name, such as `qcow2`. */
  readonly name: string
  readonly kind: 'format' | 'protocol' | 'filter'
  /**
   * A filter that opens at the protocol level, as if it were a protocol: the core opens no `file` for
   * it and does not probe it (blkdebug, blkverify).
   */
  readonly protocolLevel?: boolean
  /**
   * Several images in one (quorum, blkverify): children are images in their own right, and there is no
   * one folder that names could be relative to.
   */
  readonly composite?: boolean
  /** Prefix of names this driver opens, without the colon (`nbd` for `nbd:…`, `nbd://…`). */
  readonly protocolName?: string
  /** Whether it cannot be opened without a file name. */
  readonly needsFilename?: boolean
  readonly supportsBacking?: boolean
  /** Options an open takes beyond the generic ones. */
  readonly options: OptionSchema
  /** Options that change what the guest sees, so that `json:` names must keep them. */
  readonly strongOptions?: readonly string[]
  /** Options that a reopen may leave out, which resets them to their defaults (seed row 80). */
  readonly mutableOptions?: readonly string[]
  /** Adds to the `options` of a reopen those of `old` that they do not replace. Default: all that are not given anew. */
  joinOptions?(options: OptionDict, old: OptionDict): void
  /** Images of this driver contain their own name, or names derived from it: they are not made under another one. */
  readonly namesItself?: boolean
  /** Options of `create`; absent means the driver cannot create. */
  readonly createOptions?: OptionSchema
  /** Options of `amend`; absent means nothing can be amended. */
  readonly amendOptions?: OptionSchema
  /** How likely `head` (the first 512 bytes, fewer for a smaller file) is this format: 0 to 100. Pure. */
  probe?(head: Uint8Array, filename: string | undefined): number
  /**
   * Whether a file that looks like raw is this format by its last 512 bytes. Asked only if the layer looks
   * at the end of files. Pure.
   */
  probeTail?(tail: Uint8Array, length: number, filename: string): boolean
  /** How likely `filename` is a device of this driver: 0 to 100 (seed L475-491). */
  probeDevice?(filename: string, host: Host): number
  /** Turns a positional file name into options. Without it the name becomes `filename`. */
  parseFilename?(filename: string): OptionDict
  /** Role of the `file` child, where it is not the usual one of the driver's kind. */
  fileRole?(options: OptionDict): number
  load(): Maybe<DriverModule>
}

/** Whether nodes of `driver` are at the protocol level, where names count and nothing is probed. */
export function isProtocolLevel(driver: BlockDriver): boolean {
  return driver.kind === 'protocol' || driver.protocolLevel === true
}

/** The heavy half of a driver. */
export interface DriverModule {
  open(context: OpenContext): Maybe<DriverState>
  create?(context: CreateContext): Maybe<void>
  measure?(context: MeasureContext): Maybe<MeasureResult>
  /** Writes an image forward-only. Undefined at once: not with these options. @throws BlockError as `create` */
  stream?(context: StreamContext): Promise<void> | undefined
}

/** What a driver's open works with. It throws to refuse; the core undoes everything. */
export interface OpenContext {
  readonly layer: BlockLayer
  readonly host: Host
  readonly node: BlockNode
  /** Options of this node; the driver takes out what it understands, leftovers are an error. */
  readonly options: OptionDict
  readonly flags: Readonly<OpenFlags>
  /** File name, for messages; undefined for nodes without one. */
  readonly filename: string | undefined
  /** The `file` child that the core opened; protocols have none. Throws if it is missing. */
  readonly file: BlockChild
  /**
   * Opens a further child from `key` (a node name) or `key.*` options, which are taken out of
   * {@link options}. Returns undefined if neither is given and `optional`.
   */
  openChild(key: string, role: number, optional?: boolean): Promise<BlockChild | undefined>
  /**
   * Opens the child that a file name given to this driver contains; without `filename` it is
   * {@link openChild} for a child that must be there.
   */
  openNamedChild(key: string, role: number, filename: string | undefined): Promise<BlockChild>
  /** Opens a file that the image names itself, subject to the layer's policy for such files. */
  openImplicitChild(key: string, role: number, filename: string): Promise<BlockChild>
}

/** The driver half of an open node. Methods that are absent are not supported. */
export interface DriverState {
  /** Guest-visible length in bytes; the core rounds it up to 512. Re-read after truncate. */
  readonly length: number
  readonly map?: MapPath
  readonly direct?: DirectPath
  readonly flushPath?: FlushPath
  /** Request flags the driver carries out itself (`ReqFlags` bits). */
  readonly supportedWriteFlags?: number
  readonly supportedZeroFlags?: number
  /** Bytes per cluster, for copy-on-read and `info`. */
  readonly clusterSize?: number
  /** Name and format of the backing file as the image records them. */
  readonly backingFile?: string | undefined
  readonly backingFormat?: string | undefined
  /** The length may change without our doing (growing protocol files, devices). */
  readonly variableLength?: boolean
  /** A fresh image of this driver reads as zeroes. */
  readonly hasZeroInit?: boolean
  /** Removable: whether a medium is there; default true. */
  readonly inserted?: boolean

  /** Called with limits merged from the children; the driver tightens them. */
  refreshLimits?(limits: BlockLimits): void
  /** Permissions this node needs on `child`, given what its parents need. Default: see permissions.ts. */
  childPermissions?(child: BlockChild, perm: number, shared: number): { perm: number; shared: number }
  /** Takes outside locks for the new permissions; throws if they cannot be had. `commit` drops what is no longer needed. */
  preparePermissions?(perm: number, shared: number): Maybe<void>
  commitPermissions?(perm: number, shared: number): void
  abortPermissions?(): void

  truncate?(length: number, how: TruncateOptions): Wait
  check?(fix: CheckFix, signal?: AbortSignal): Promise<CheckResult>
  /** Refuses a backing file that is not the one the image was made from. Before the image's own is attached. */
  checkBacking?(backing: BlockNode): void
  /** Records another backing file in the image. */
  changeBacking?(filename: string | undefined, format: string | undefined): Wait
  /** Bytes the image occupies outside; the core sums children when absent. */
  allocatedSize?(): Maybe<number>
  info?(): DriverInfo
  /** What `query-blockstats` shows of this driver alone, with `driver` added. */
  statistics?(): OptionTree
  /** QAPI `ImageInfoSpecific`: type and data, keys in QEMU's order. */
  specificInfo?(): Maybe<SpecificInfo | undefined>
  /** What else the format says of an image, and QEMU does not show. */
  details?(): FormatDetails
  snapshots?(): readonly SnapshotInfo[]
  readonly snapshotOperations?: SnapshotOperations
  readonly vmState?: VmStateArea
  /** Changes properties of the image in place. */
  amend?(context: AmendContext): Promise<void>
  /** Forgets everything written to this image, so that the backing file shows through (after commit). */
  makeEmpty?(): Wait
  /** Takes a node up as another child (quorum). The result's edge is the new child. */
  addChild?(node: BlockNode): Promise<void>
  /** Lets one of the children go. @throws BlockError if too few would be left */
  removeChild?(child: BlockChild): Promise<void>
  /** Checks a change of options and prepares it; nothing changes until the plan is committed. Throws to refuse. */
  prepareReopen?(context: ReopenContext): Maybe<ReopenPlan>
  /** Whether replacing `node`, at or below this one, by one with the same contents as this one changes nothing for those above. */
  canReplace?(node: BlockNode): boolean
  readonly debug?: DebugHooks
  readonly bitmapStore?: BitmapStore
  readonly medium?: MediumHooks
  readonly zones?: ZoneOperations | undefined
  readonly key?: KeyHooks | undefined
  probeBlockSizes?(): { logical: number; physical: number } | undefined
  probeGeometry?(): { cylinders: number; heads: number; sectors: number } | undefined
  /** In-kernel copy between two protocol nodes; undefined result: not possible here. */
  copyRangeTo?(offset: number, target: IoNode, targetOffset: number, bytes: number): Maybe<number | undefined>
  /** Whoever drains the node waits for its requests: what the driver holds back goes at once, until as many ends. */
  drainedBegin?(): void
  drainedEnd?(): void
  /** The node's I/O leaves its context, or enters this one; nothing is in flight. Neither may fail. */
  detachAioContext?(): void
  attachAioContext?(context: AioContext): void
  /** The image is about to be handed to another process: write everything back. */
  inactivate?(): Wait
  /**
   * Another process may have changed the image: forget what is cached. A driver that reads the image
   * anew returns what it is now, which takes this object's place; this one is not closed then.
   */
  invalidate?(): Maybe<DriverState | undefined>
  /**
   * How the node is named by its children: a plain filename that reopens it exactly, or undefined
   * if only `json:` can. Absent: the core derives it (seed L3940-4003).
   */
  exactFilename?(): string | undefined
  close(): Wait
}

export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full'

export interface TruncateOptions {
  /** The result must have exactly this length; otherwise it may be longer. */
  readonly exact: boolean
  readonly preallocation: Preallocation
  /** The new part must read as zeroes. */
  readonly zero: boolean
}

export interface CheckFix {
  readonly leaks: boolean
  readonly errors: boolean
}

/** Outcome of a check; counts are clusters except `imageEndOffset` (bytes). */
export interface CheckResult {
  corruptions: number
  leaks: number
  corruptionsFixed: number
  leaksFixed: number
  checkErrors: number
  imageEndOffset: number
  totalClusters: number
  allocatedClusters: number
  fragmentedClusters: number
  compressedClusters: number
  /** Lines for the user, in order, such as `Leaked cluster 5 refcount=1 reference=0`. */
  messages: string[]
  /** Indices of those {@link messages} that a tool prints after its own name. */
  reports?: number[]
}

/** A check that could not be finished, as the `cause` of its error. */
export interface CheckFailure {
  /** What it found until then. */
  readonly partial: CheckResult
}

export interface DriverInfo {
  readonly clusterSize?: number
  readonly vmStateOffset?: number
  readonly isDirty?: boolean
  /** All writes must be whole clusters (compressed streams). */
  readonly needsCompressedWrites?: boolean
}

export interface SpecificInfo {
  readonly type: string
  readonly data: OptionTree
}

export interface SnapshotInfo {
  readonly id: string
  readonly name: string
  /** Bytes. */
  readonly vmStateSize: number
  /** Seconds since 1970, and nanoseconds. */
  readonly dateSeconds: number
  readonly dateNanoseconds: number
  /** Guest time in nanoseconds. */
  readonly vmClockNanoseconds: bigint
  /** Instruction count, if recorded. */
  readonly icount?: bigint
  /** Guest disk size in bytes at the time. */
  readonly diskSize: number
}

/** What `create` works with. Creation leaves no half-made file behind: the driver removes what it made when it throws. */
export interface CreateContext {
  readonly layer: BlockLayer
  readonly host: Host
  readonly filename: string
  /** Options already typed by the driver's schema (size in bytes); what belongs to the protocol below is passed on by {@link createFile}. */
  readonly options: Readonly<Record<string, string | number | boolean>>
  /** Sizes that the format cannot have are refused (`blockdev-create`) instead of rounded. Default false. */
  readonly exact?: boolean
  /**
   * Creates the file below through its protocol driver with `size` bytes and opens it for writing.
   * The core closes it afterwards.
   */
  createFile(size: number): Promise<BlockNode>
  /** {@link createFile} for a further file of the image. */
  createFurtherFile(filename: string, size: number): Promise<BlockNode>
}

/** What an image that is written forward-only (`convert … -`) is made from, and where it goes. */
export interface StreamContext {
  readonly host: Host
  /** As for `create`. */
  readonly options: Readonly<Record<string, string | number | boolean>>
  /** Length of the disk, bytes. */
  readonly length: number
  /** What the image may call itself, without folder. */
  readonly name: string
  /** How far from `offset` on the disk is data, or zeroes; bytes > 0. */
  ask(offset: number): Promise<{ readonly bytes: number; readonly zero: boolean }>
  /** Fills `buffer[bufferOffset, +bytes)` from the disk. */
  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Promise<void>
  /** Takes the next bytes of the image; they must stay as they are until the promise settles. */
  write(chunk: Uint8Array): Promise<void> | undefined
  /** Throws when the user wants to stop; told how far the disk has been read, bytes. */
  progress(offset: number): void
}

export interface MeasureContext {
  readonly layer: BlockLayer
  readonly options: Readonly<Record<string, string | number | boolean>>
  /** Image to be converted, or undefined for a plain size. */
  readonly source?: BlockNode
}

/** Bytes the target would need. */
export interface MeasureResult {
  readonly required: number
  readonly fullyAllocated: number
  readonly bitmaps?: number
}
