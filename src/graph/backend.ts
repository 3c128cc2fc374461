import { blockError, ioError } from '../errors/index.js'
import {
  type AccountedKind,
  type DetectZeroes,
  type IoAccounting,
  ReqFlags,
  type ThrottleLimits,
  type ThrottleMember,
} from '../io/index.js'
import type { OptionDict, OptionTree } from '../options/index.js'
import type { Wait } from '../sched/index.js'
import { changeAioContext } from './aio-change.js'
import type { AioContext } from './aio-context.js'
import { DeviceSlot } from './backend-device.js'
import { ErrorPolicy } from './backend-errors.js'
import { BlockChild, type EdgeParent } from './child.js'
import { drain } from './drain.js'
import { type OpenFlags, Perm, Role } from './flags.js'
import type { BlockLayer } from './layer.js'
import { attachEdge, detachEdge } from './lifecycle.js'
import type { BlockNode } from './node.js'
import { isWellFormedId } from './node-names.js'
import { settlePermissions } from './permissions.js'
import { isInserted } from './resize.js'

export interface BackendOptions {
  /** Device name; empty for an anonymous user. */
  readonly name?: string
  /** Permissions used, and those others may use at the same time; `Perm` bits. */
  readonly perm?: number
  readonly shared?: number
  /** Flush after every write. */
  readonly writeThrough?: boolean
}

/**
 * A user of a node: a device, a tool, an export. It holds permissions on the root node, checks
 * request ranges and owns what belongs to the user rather than to the image (name, write cache).
 *
 * Buffers belong to the caller and must stay untouched until the returned wait settles.
 */
export class Backend implements EdgeParent {
  readonly layer: BlockLayer
  readonly name: string
  root: BlockChild | undefined = undefined
  writeThrough: boolean
  /** Whether requests may start past the end of the node (creation code grows files). */
  allowBeyondEnd = false
  /** Whether others may move the node below to another AioContext although this backend uses it. */
  allowAioContextChange = false
  /** Block size that the guest sees, bytes. */
  guestBlockSize = 512
  readonly device = new DeviceSlot(this)
  readonly errors = new ErrorPolicy(this)
  /** Mode of the last medium, for the next one to be like it. */
  lastMedium: { readonly write: boolean; readonly detectZeroes: DetectZeroes } = {
    write: true,
    detectZeroes: 'off',
  }
  #perm: number
  #shared: number
  #closed = false
  #held = 0
  /** Where the I/O of media takes place. */
  #aioContext: AioContext
  #accounting: IoAccounting | undefined = undefined
  #throttle: ThrottleMember | undefined = undefined
  /** Whether requests must look at more than their range. Hot: read on every request. */
  #attention = false
  readonly #waiting: (() => void)[] = []

  /** @throws BlockError EINVAL for a name that is no id or is taken */
  constructor(layer: BlockLayer, options: BackendOptions = {}) {
    this.layer = layer
    this.#aioContext = layer.mainContext
    this.name = options.name ?? ''
    if (this.name !== '') {
      checkName(layer, this.name)
    }
    this.#perm = options.perm ?? 0
    this.#shared = options.shared ?? Perm.all
    this.writeThrough = options.writeThrough ?? false
    layer.backends.add(this)
  }

  /**
   * Opens an image for a tool: the permissions follow from the flags (read always, unless `noIo`;
   * write and nothing else with `write`), and everything is shared with others in this process.
   */
  static async open(
    layer: BlockLayer,
    filename: string | undefined,
    options: OptionDict | OptionTree = {},
    flags: Partial<OpenFlags> & { resize?: boolean; noShare?: boolean } = {},
    backend: BackendOptions = {},
  ): Promise<Backend> {
    let perm = 0
    if (flags.noIo !== true) {
      perm |= Perm.consistentRead
      if (flags.write === true) {
        perm |= Perm.write
      }
    }
    if (flags.resize === true) {
      perm |= Perm.resize
    }
    const shared = flags.noShare === true ? Perm.consistentRead | Perm.writeUnchanged : Perm.all
    const { resize: _resize, noShare: _noShare, ...openFlags } = flags
    const node = await layer.open(filename, options, openFlags)
    const self = new Backend(layer, { perm, shared, ...backend })
    try {
      await self.insert(node)
    } catch (error) {
      await self.close()
      throw error
    } finally {
      await layer.unref(node)
    }
    return self
  }

  get description(): string {
    return this.name === '' ? 'an unnamed block device' : `block device '${this.name}'`
  }

  get deviceName(): string {
    return this.name
  }

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

  get perm(): number {
    return this.#perm
  }

  get shared(): number {
    return this.#shared
  }

  /** Puts `node` below this backend; takes its own reference. */
  async insert(node: BlockNode): Promise<void> {
    if (this.root !== undefined) {
      throw new Error('backend already has a root')
    }
    await this.#joinAioContext(node)
    const child = new BlockChild('root', Role.filtered | Role.primary, this, node)
    child.perm = this.#perm
    child.shared = this.#shared
    try {
      await this.layer.graphLock.run(async () => {
        attachEdge(child)
        try {
          await settlePermissions([node])
        } catch (error) {
          detachEdge(child)
          throw error
        }
      })
    } catch (error) {
      await this.layer.unref(node)
      throw error
    }
    this.root = child
  }

  /** The medium moves to where this backend is, or else this backend to where the medium is. */
  async #joinAioContext(node: BlockNode): Promise<void> {
    if (node.aioContext === this.#aioContext) {
      return
    }
    try {
      await changeAioContext(node, this.#aioContext)
    } catch (error) {
      if (!this.allowAioContextChange) {
        throw error
      }
      this.#aioContext = node.aioContext
    }
  }

  get aioContext(): AioContext {
    return this.#aioContext
  }

  /** Moves the medium's I/O, and that of media to come. @throws BlockError EPERM if other users of it refuse */
  async setAioContext(context: AioContext): Promise<void> {
    if (this.root !== undefined) {
      await changeAioContext(this.root.node, context, this.root)
    }
    this.#aioContext = context
  }

  checkAioContext(): void {
    // A device that a user made by name and that nothing is attached to has nobody to mind.
    if (!this.allowAioContextChange && (this.name === '' || this.device.model !== undefined)) {
      throw blockError('EPERM', 'Cannot change iothread of active block backend')
    }
  }

  aioContextChanged(context: AioContext): void {
    this.#aioContext = context
  }

  /** Changes what this backend uses and shares; on failure nothing changes. */
  async setPermissions(perm: number, shared: number): Promise<void> {
    const child = this.root
    if (child !== undefined) {
      await this.layer.graphLock.run(async () => {
        const old = { perm: child.perm, shared: child.shared }
        child.perm = perm
        child.shared = shared
        try {
          await settlePermissions([child.node])
        } catch (error) {
          child.perm = old.perm
          child.shared = old.shared
          throw error
        }
      })
    }
    this.#perm = perm
    this.#shared = shared
  }

  async remove(): Promise<void> {
    const child = this.root
    if (child === undefined) {
      return
    }
    this.lastMedium = { write: child.node.flags.write, detectZeroes: child.node.detectZeroes }
    this.root = undefined
    const section = await drain([child.node])
    section.end()
    await this.layer.graphLock.run(async () => {
      detachEdge(child)
      if (child.node.references > 1) {
        await settlePermissions([child.node])
      }
    })
    await this.layer.unref(child.node)
  }

  /** Removes the root and forgets the backend. Writes are flushed by the closing nodes. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) {
      return
    }
    this.#closed = true
    try {
      this.leaveThrottleGroup()
      // What was waiting goes before the image does.
      await Promise.resolve()
      await this.remove()
    } finally {
      this.layer.backends.delete(this)
    }
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
    this.#attend()
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
    this.#attend()
  }

  /** Requests go as fast as they can, also those that wait. */
  leaveThrottleGroup(): void {
    const left = this.#throttle
    if (left !== undefined) {
      this.#throttle = undefined
      this.#attend()
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

  /** Whether there is a medium. */
  get isInserted(): boolean {
    return this.root !== undefined && isInserted(this.root.node)
  }

  /** Whether there is a medium that requests can reach. */
  get isAvailable(): boolean {
    return this.isInserted && !this.device.isTrayOpen
  }

  /** Moves the tray on behalf of the guest. */
  eject(open: boolean): Wait {
    const wait = this.root?.node.state?.medium?.eject?.(open)
    if (wait !== undefined) {
      return wait.then(() => {
        this.device.trayMoved(open)
      })
    }
    // Whether or not the image knows of trays, the guest's has moved.
    this.device.trayMoved(open)
    return undefined
  }

  /** The guest locks the medium in, or lets it go. */
  lockMedium(locked: boolean): Wait {
    return this.root?.node.state?.medium?.lock?.(locked)
  }

  /** @internal A device model came or went. */
  deviceChanged(): void {
    this.#attend()
  }

  resized(): void {
    this.device.resized()
  }

  mediumChanged(load: boolean): void {
    this.device.changeMedia(load)
  }

  quiesced(): Wait {
    return this.device.drainedPoll()
  }

  get isHeld(): boolean {
    return this.#held !== 0
  }

  /** New requests wait while this has been called more often than {@link releaseRequests}. */
  holdRequests(): void {
    if (this.#held++ === 0) {
      this.#attend()
      this.device.drainedBegin()
    }
  }

  releaseRequests(): void {
    if (--this.#held === 0) {
      this.#attend()
      this.device.drainedEnd()
      for (const resume of this.#waiting.splice(0)) {
        resume()
      }
    }
  }

  #attend(): void {
    this.#attention =
      this.#held !== 0 ||
      this.#accounting !== undefined ||
      this.#throttle !== undefined ||
      this.device.model !== undefined
  }

  #check(operation: string, offset: number, bytes: number): BlockNode {
    const node = this.node
    if (!(offset >= 0 && bytes >= 0) || (!this.allowBeyondEnd && offset + bytes > node.length)) {
      throw ioError('EIO', { node: node.name, operation, offset, bytes })
    }
    return node
  }

  #checkAvailable(): void {
    if (this.device.model !== undefined && !this.isAvailable) {
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

function checkName(layer: BlockLayer, name: string): void {
  if (!isWellFormedId(name)) {
    throw blockError('EINVAL', 'Invalid device name')
  }
  if (layer.findBackend(name) !== undefined) {
    throw blockError('EINVAL', `Device with id '${name}' already exists`)
  }
  if (layer.findNode(name) !== undefined) {
    throw blockError('EINVAL', `Device name '${name}' conflicts with an existing node name`)
  }
}
