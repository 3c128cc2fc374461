import { blockError, isBlockError, prefixed } from '../errors/index.js'
import { FuseExport, NbdExport, NbdServer } from '../exports/index.js'
import { authorizeBy } from '../formatkit/authz/index.js'
import { findTlsCredentials } from '../formatkit/tls/index.js'
import {
  type AioContext,
  type BlockLayer,
  type BlockNode,
  changeAioContext,
  findIoThread,
  isWellFormedId,
} from '../graph/index.js'
import { IoAccounting } from '../io/index.js'
import { socketAddress } from './chardev/registry.js'
import type { TypeOf } from './schema/types.js'

export type BlockExportOptions = TypeOf<'BlockExportOptions'>

/** A node that is offered to other programs. */
export interface BlockExport {
  readonly id: string
  readonly type: TypeOf<'BlockExportType'>
  /** Users may not use the export any more, but some still do. */
  shuttingDown: boolean
  readonly served: NbdExport | FuseExport
  /** Made by `nbd-server-add`, whose id is the export's name. */
  readonly done: Promise<void>
}

/** What `nbd-server-start` takes. */
export interface NbdServerStart {
  readonly addr: TypeOf<'SocketAddress'>
  readonly 'tls-creds'?: string | undefined
  readonly 'tls-authz'?: string | undefined
  readonly 'max-connections'?: number | undefined
}

/** The exports of one process, by id, and the NBD server that serves them. */
export class BlockExports {
  readonly #layer: BlockLayer
  readonly #exports = new Map<string, BlockExport>()
  readonly #deleted: (id: string) => void
  #server: NbdServer | undefined = undefined
  /** Requests of exports made from now on are counted, with histograms of these boundaries, nanoseconds. */
  accountingBoundaries: readonly number[] | undefined = undefined

  /** @param deleted hears of each export that is gone (BLOCK_EXPORT_DELETED) */
  constructor(layer: BlockLayer, deleted: (id: string) => void) {
    this.#layer = layer
    this.#deleted = deleted
  }

  get nbdServer(): NbdServer | undefined {
    return this.#server
  }

  list(): readonly BlockExport[] {
    return [...this.#exports.values()].reverse()
  }

  /** `nbd-server-start`. @throws BlockError with QEMU's text */
  async startNbdServer(options: NbdServerStart): Promise<void> {
    if (this.#server !== undefined) {
      throw blockError('EBUSY', 'NBD server already running')
    }
    const { sockets, clock } = this.#layer.host
    if (sockets === undefined) {
      throw blockError('ENOTSUP', 'Sockets are not available here')
    }
    const creds = options['tls-creds']
    const authz = options['tls-authz']
    const authorize = authz === undefined ? undefined : authorizeBy(this.#layer, authz)
    const address = socketAddress(options.addr)
    const server = new NbdServer({
      sockets,
      clock,
      tls:
        creds === undefined
          ? undefined
          : findTlsCredentials(this.#layer, creds, 'server').session({ authorize }),
      maxConnections: options['max-connections'] ?? 0,
    })
    // At once: a second start meanwhile must find it.
    this.#server = server
    try {
      await server.listen(address)
      server.start()
    } catch (error) {
      this.#server = undefined
      await server.close()
      throw error
    }
  }

  /** `nbd-server-stop`: its exports go too. @throws BlockError */
  async stopNbdServer(): Promise<void> {
    const server = this.#server
    if (server === undefined) {
      throw blockError('EINVAL', 'NBD server not running')
    }
    for (const one of [...this.#exports.values()]) {
      if (one.type === 'nbd') {
        await this.#remove(one)
      }
    }
    this.#server = undefined
    await server.close()
  }

  /** `block-export-add`. @throws BlockError with QEMU's text */
  async add(options: BlockExportOptions): Promise<BlockExport> {
    if (!isWellFormedId(options.id)) {
      throw blockError('EINVAL', 'Invalid block export id')
    }
    if (this.#exports.has(options.id)) {
      throw blockError('EEXIST', `Block export id '${options.id}' is already in use`)
    }
    if (options.type !== 'nbd' && options.type !== 'fuse') {
      throw blockError('ENOTSUP', `No driver found for the requested export type`)
    }
    const node = this.#layer.lookup('', options['node-name'])
    const context = options.iothread === undefined ? undefined : this.#ioThread(options.iothread)
    const writable = options.writable ?? false
    if (writable && node.readOnly) {
      throw blockError('EINVAL', 'Cannot export read-only node as writable')
    }
    const served =
      options.type === 'fuse'
        ? await this.#mount(node, options)
        : await this.#serveNbd(node, options, writable)
    if (context !== undefined) {
      await this.#moveTo(node, context, options['fixed-iothread'] ?? false, served)
    }
    const one: BlockExport = {
      id: options.id,
      type: options.type,
      shuttingDown: false,
      served,
      done: Promise.resolve(),
    }
    if (this.accountingBoundaries !== undefined) {
      const accounting = new IoAccounting()
      for (const kind of ['read', 'write', 'flush'] as const) {
        accounting.setHistogram(kind, this.accountingBoundaries)
      }
      served.backend.accounting = accounting
    }
    if (served instanceof NbdExport) {
      try {
        this.#server?.add(served)
      } catch (error) {
        await served.close()
        throw error
      }
    } else {
      // Somebody else may take the mount away.
      void served.done.then(() =>
        this.#exports.get(one.id) === one && !one.shuttingDown ? this.#remove(one) : undefined,
      )
    }
    this.#exports.set(one.id, one)
    return one
  }

  #ioThread(id: string): AioContext {
    const context = findIoThread(this.#layer, id)
    if (context === undefined) {
      throw blockError('ENOENT', `iothread "${id}" not found`)
    }
    return context
  }

  /** Moves the node to an I/O thread, with its new export; `fixed`: it must be possible. */
  async #moveTo(
    node: BlockNode,
    context: AioContext,
    fixed: boolean,
    served: NbdExport | FuseExport,
  ): Promise<void> {
    try {
      await changeAioContext(node, context)
    } catch (error) {
      if (fixed || !isBlockError(error)) {
        await served.close()
        throw error
      }
    }
  }

  async #mount(node: BlockNode, options: BlockExportOptions & { type: 'fuse' }): Promise<FuseExport> {
    return await FuseExport.create(this.#layer, node, {
      mountpoint: options.mountpoint,
      writable: options.writable ?? false,
      writeThrough: options.writethrough ?? false,
      growable: options.growable ?? false,
      allowOther: options['allow-other'] ?? 'auto',
    })
  }

  async #serveNbd(
    node: BlockNode,
    options: BlockExportOptions & { type: 'nbd' },
    writable: boolean,
  ): Promise<NbdExport> {
    const server = this.#server
    if (server === undefined) {
      throw blockError('EINVAL', 'NBD server not running')
    }
    const name = options.name ?? options['node-name']
    if (name.length > maxNameBytes) {
      throw blockError('EINVAL', `export name '${name}' too long`)
    }
    if ((options.description ?? '').length > maxNameBytes) {
      throw blockError('EINVAL', `description '${options.description}' too long`)
    }
    if (server.find(name) !== undefined) {
      throw blockError('EEXIST', `NBD server already has export named '${name}'`)
    }
    return await NbdExport.create(this.#layer, node, {
      name,
      ...(options.description === undefined ? {} : { description: options.description }),
      writable,
      writeThrough: options.writethrough ?? false,
      bitmaps: options.bitmaps ?? [],
      allocationDepth: options['allocation-depth'] ?? false,
      multiConn: true,
    })
  }

  /**
   * `nbd-server-add`: an export under the name of its node or one of its own. It goes with the device.
   *
   * @throws BlockError with QEMU's text
   */
  async addByDevice(options: TypeOf<'NbdServerAddOptions'>): Promise<BlockExport> {
    if (this.#server === undefined) {
      throw blockError('EINVAL', 'NBD server not running')
    }
    const { device } = options
    const name = options.name ?? device
    if (name.length > maxNameBytes) {
      throw blockError('EINVAL', `export name '${name}' too long`)
    }
    if (this.#exports.has(name)) {
      throw blockError('EEXIST', `Block export id '${name}' is already in use`)
    }
    const node = this.#layer.lookup(device, device)
    return await this.add({
      type: 'nbd',
      id: name,
      'node-name': node.name,
      name,
      description: options.description,
      // Who asks for more than the node can give gets what there is.
      writable: (options.writable ?? false) && !node.readOnly,
      bitmaps: options.bitmap === undefined ? undefined : [options.bitmap],
    })
  }

  /**
   * `block-export-del`.
   *
   * @param hard disconnect clients that use it
   * @throws BlockError with QEMU's text
   */
  async remove(id: string, hard: boolean): Promise<void> {
    const one = this.#exports.get(id)
    if (one === undefined) {
      throw blockError('ENOENT', `Export '${id}' is not found`)
    }
    if (one.shuttingDown) {
      throw blockError('EBUSY', `Export '${id}' is already shutting down`)
    }
    if (!hard && one.served instanceof NbdExport && this.#server?.isInUse(one.served) === true) {
      throw blockError('EBUSY', `export '${id}' still in use`, {
        hint: "Use mode='hard' to force client disconnect",
      })
    }
    await this.#remove(one)
  }

  async #remove(one: BlockExport): Promise<void> {
    one.shuttingDown = true
    try {
      if (one.served instanceof NbdExport) {
        await this.#server?.remove(one.served.name, true)
      }
      const node = one.served.backend.root?.node
      await one.served.close()
      await this.#moveBack(node)
    } catch (error) {
      throw prefixed(error, '')
    } finally {
      this.#exports.delete(one.id)
      this.#deleted(one.id)
    }
  }

  /** A node that nothing uses from outside any more leaves its I/O thread, which can then be deleted. */
  async #moveBack(node: BlockNode | undefined): Promise<void> {
    const { mainContext } = this.#layer
    const isUsed = node?.parents.some((edge) => edge.parent.parentNode === undefined) ?? true
    if (node === undefined || isUsed || node.aioContext === mainContext) {
      return
    }
    try {
      await changeAioContext(node, mainContext)
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
    }
  }

  /** Ends everything. */
  async closeAll(): Promise<void> {
    for (const one of [...this.#exports.values()]) {
      await this.#remove(one)
    }
    const server = this.#server
    this.#server = undefined
    await server?.close()
  }
}

const maxNameBytes = 4096
