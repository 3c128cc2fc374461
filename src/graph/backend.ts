import { blockError, ioError } from '../errors/index.js'
import type { DetectZeroes } from '../io/index.js'
import type { OptionDict, OptionTree } from '../options/index.js'
import type { Wait } from '../sched/index.js'
import { changeAioContext } from './aio-change.js'
import type { AioContext } from './aio-context.js'
import { DeviceSlot } from './backend-device.js'
import { ErrorPolicy } from './backend-errors.js'
import { BackendIo } from './backend-io.js'
import { BlockChild, type EdgeParent } from './child.js'
import { drain } from './drain.js'
import { type OpenFlags, Perm, Role } from './flags.js'
import type { BlockLayer } from './layer.js'
import { attachEdge, detachEdge } from './lifecycle.js'
import type { BlockNode } from './node.js'
import { isWellFormedId } from './node-names.js'
import { permissionNames, settlePermissions } from './permissions.js'
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
export class Backend extends BackendIo implements EdgeParent {
  readonly layer: BlockLayer
  readonly name: string
  /** Whether others may move the node below to another AioContext although this backend uses it. */
  allowAioContextChange = false
  /** A writer that copes with its node becoming inactive although no guest is behind it. */
  forceAllowInactivate = false
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
  /** Permissions are not in effect because the medium is inactive. */
  #disabled = false
  #closed = false
  /** Where the I/O of media takes place. */
  #aioContext: AioContext

  /** @throws BlockError EINVAL for a name that is no id or is taken */
  constructor(layer: BlockLayer, options: BackendOptions = {}) {
    super(options.writeThrough ?? false)
    this.layer = layer
    this.#aioContext = layer.mainContext
    this.name = options.name ?? ''
    if (this.name !== '') {
      checkName(layer, this.name)
    }
    this.#perm = options.perm ?? 0
    this.#shared = options.shared ?? Perm.all
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
    child.perm = this.#disabled ? 0 : this.#perm
    child.shared = this.#disabled ? Perm.all : this.#shared
    if (node.flags.inactive && (child.perm & ~Perm.consistentRead) !== 0) {
      throw blockError('EPERM', `Permission '${permissionNames(child.perm)}' unavailable on inactive node`)
    }
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
    if (!this.#disabled) {
      await this.#applyPermissions(perm, shared)
    }
    this.#perm = perm
    this.#shared = shared
  }

  async #applyPermissions(perm: number, shared: number): Promise<void> {
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
  }

  /** Whether this backend may be taken its permissions: guests' devices wait until they have them again. */
  get #canInactivate(): boolean {
    return (
      this.name !== '' ||
      this.device.model !== undefined ||
      (this.#perm & (Perm.write | Perm.writeUnchanged)) === 0 ||
      this.forceAllowInactivate
    )
  }

  async inactivate(): Promise<void> {
    if (this.#disabled) {
      return
    }
    if (!this.#canInactivate) {
      throw ioError('EPERM')
    }
    await this.#applyPermissions(0, Perm.all)
    this.#disabled = true
  }

  async activate(): Promise<void> {
    if (this.#disabled) {
      await this.#applyPermissions(this.#perm, this.#shared)
      this.#disabled = false
    }
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
    if (this.layer.incoming && this.device.model !== undefined && this.root === undefined) {
      // A guest that does not run yet needs nothing.
      this.#disabled = true
    }
    this.attend()
  }

  resized(): void {
    this.device.resized()
  }

  mediumChanged(load: boolean): void {
    this.device.changeMedia(load)
  }

  protected get hasDevice(): boolean {
    return this.device.model !== undefined
  }

  protected drainedBegin(): void {
    this.device.drainedBegin()
  }

  protected drainedEnd(): void {
    this.device.drainedEnd()
  }

  quiesced(): Wait {
    return this.device.drainedPoll()
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
