import { ioError } from '../errors/index.js'
import { ReqFlags } from '../io/index.js'
import type { OptionDict, OptionTree } from '../options/index.js'
import type { Wait } from '../sched/index.js'
import { BlockChild, type EdgeParent } from './child.js'
import { drain } from './drain.js'
import { type OpenFlags, Perm, Role } from './flags.js'
import type { BlockLayer } from './layer.js'
import { attachEdge, detachEdge } from './lifecycle.js'
import type { BlockNode } from './node.js'
import { settlePermissions } from './permissions.js'

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
  #perm: number
  #shared: number
  #closed = false
  #held = 0
  readonly #waiting: (() => void)[] = []

  constructor(layer: BlockLayer, options: BackendOptions = {}) {
    this.layer = layer
    this.name = options.name ?? ''
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
      await this.remove()
    } finally {
      this.layer.backends.delete(this)
    }
  }

  #check(operation: string, offset: number, bytes: number): BlockNode {
    const node = this.node
    if (!(offset >= 0 && bytes >= 0) || (!this.allowBeyondEnd && offset + bytes > node.length)) {
      throw ioError('EIO', { node: node.name, operation, offset, bytes })
    }
    return node
  }

  /** New requests wait while this has been called more often than {@link releaseRequests}. */
  holdRequests(): void {
    this.#held++
  }

  releaseRequests(): void {
    if (--this.#held === 0) {
      for (const resume of this.#waiting.splice(0)) {
        resume()
      }
    }
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
    if (this.#held !== 0) {
      return this.#whenReleased(() => this.read(offset, bytes, buffer, bufferOffset, flags))
    }
    return this.#check('read', offset, bytes).read(offset, bytes, buffer, bufferOffset, flags)
  }

  /** Writes `buffer[bufferOffset, +bytes)`; durable after {@link flush}, or at once with `writeThrough`. */
  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset = 0, flags = 0): Wait {
    if (this.#held !== 0) {
      return this.#whenReleased(() => this.write(offset, bytes, buffer, bufferOffset, flags))
    }
    const node = this.#check('write', offset, bytes)
    return node.write(offset, bytes, buffer, bufferOffset, this.writeThrough ? flags | ReqFlags.fua : flags)
  }

  /** See IoNode.writeZeroes. */
  writeZeroes(offset: number, bytes: number, flags = 0): Wait {
    if (this.#held !== 0) {
      return this.#whenReleased(() => this.writeZeroes(offset, bytes, flags))
    }
    const node = this.#check('write-zeroes', offset, bytes)
    return node.writeZeroes(offset, bytes, this.writeThrough ? flags | ReqFlags.fua : flags)
  }

  /** See IoNode.discard. */
  discard(offset: number, bytes: number): Wait {
    if (this.#held !== 0) {
      return this.#whenReleased(() => this.discard(offset, bytes))
    }
    return this.#check('discard', offset, bytes).discard(offset, bytes)
  }

  /** Everything completed before is durable afterwards. */
  flush(): Wait {
    if (this.#held !== 0) {
      return this.#whenReleased(() => this.flush())
    }
    return this.node.flush()
  }
}
