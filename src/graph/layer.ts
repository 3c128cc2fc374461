import { blockError } from '../errors/index.js'
import type { Host } from '../host/index.js'
import { OptionDict, type OptionTree } from '../options/index.js'
import { Mutex } from '../sched/index.js'
import { AioContext } from './aio-context.js'
import type { Backend } from './backend.js'
import type { BlockDriver, DriverModule } from './driver.js'
import { BlockEvents } from './events.js'
import type { OpenFlags } from './flags.js'
import { allowImplicitFiles, type ImplicitFilePolicy } from './implicit-files.js'
import { closeNode } from './lifecycle.js'
import type { BlockNode } from './node.js'
import { NodeNames } from './node-names.js'
import { UserObjects } from './objects.js'
import { type OpenRequest, openInherit } from './open.js'
import { ThrottleGroups } from './throttling.js'

export interface BlockLayerOptions {
  readonly host: Host
  /** Drivers in registration order; later ones are asked first when probing (seed row 1). */
  readonly drivers: readonly BlockDriver[]
  /** What to do with files that an image names itself (backing, data file, extents). Default: open them. */
  readonly implicitFiles?: ImplicitFilePolicy
  /**
   * Whether probing also looks at the end of files (`BlockDriver.probeTail`). Default: no, as QEMU: who can
   * write to the end of a raw disk could make it another format.
   */
  readonly probeTails?: boolean
  /** Names of drivers that may be used at all, and of those that may be used read-only (seed row 3). */
  readonly whitelist?: { readonly readWrite: readonly string[]; readonly readOnly: readonly string[] }
}

/**
 * A block graph with its drivers and its platform. There is no global one: two layers know nothing
 * of each other.
 */
export class BlockLayer {
  readonly host: Host
  /** Iteration order, last registered first. */
  readonly drivers: readonly BlockDriver[]
  readonly implicitFiles: ImplicitFilePolicy
  /** See {@link BlockLayerOptions.probeTails}. */
  probeTails: boolean
  readonly whitelist: BlockLayerOptions['whitelist']
  readonly names: NodeNames
  /** Named users of nodes, in creation order. */
  readonly backends = new Set<Backend>()
  /** @internal All nodes in creation order. */
  readonly nodes = new Set<BlockNode>()
  /** Nodes that the user made by name and owns a reference to; see addBlockdev. */
  readonly userNodes = new Set<BlockNode>()
  readonly events = new BlockEvents()
  /** Images that are opened belong to another process for now (seed row 115); see activateAll. */
  incoming = false
  /** The event loop that everything runs on unless it is moved. */
  readonly mainContext = new AioContext('main')
  /** Objects that options refer to by id: secrets, throttle groups. */
  readonly objects = new UserObjects()
  /** Limits that nodes and backends share, by name. */
  readonly throttleGroups: ThrottleGroups
  /** @internal Called when edges have been added: users that now stand above drained nodes must be held. */
  readonly drainedSections = new Set<() => void>()
  /** @internal Held from the first change of edges or flags until their permissions are settled. */
  readonly graphLock = new Mutex()
  readonly #modules = new Map<BlockDriver, DriverModule>()

  constructor(options: BlockLayerOptions) {
    this.host = options.host
    for (const driver of options.drivers) {
      if (driver.name === '') {
        throw new Error('a block driver needs a name')
      }
    }
    this.drivers = [...options.drivers].reverse()
    this.implicitFiles = options.implicitFiles ?? allowImplicitFiles
    this.probeTails = options.probeTails ?? false
    this.whitelist = options.whitelist
    this.names = new NodeNames(this)
    this.throttleGroups = new ThrottleGroups(this)
  }

  /** The driver called exactly `name`; the first registered last wins (seed row 2). */
  findFormat(name: string): BlockDriver | undefined {
    return this.drivers.find((driver) => driver.name === name)
  }

  /** Distinct driver names sorted by code unit, as in "Supported formats" (seed row 4). */
  formatNames(): string[] {
    return [...new Set(this.drivers.map((driver) => driver.name))].sort()
  }

  /** Whether `driver` may be used (seed row 3). Both lists empty or absent: everything may. */
  isWhitelisted(driver: BlockDriver, readOnly: boolean): boolean {
    const list = this.whitelist
    if (list === undefined || (list.readWrite.length === 0 && list.readOnly.length === 0)) {
      return true
    }
    return list.readWrite.includes(driver.name) || (readOnly && list.readOnly.includes(driver.name))
  }

  /** The heavy half of a driver, loaded once. */
  async loadDriver(driver: BlockDriver): Promise<DriverModule> {
    const known = this.#modules.get(driver)
    if (known !== undefined) {
      return known
    }
    const module = await driver.load()
    this.#modules.set(driver, module)
    return module
  }

  /**
   * Opens an image, file or filter and everything below it. The caller owns one reference to the
   * result and gives it back with {@link unref}. Options are consumed from a copy.
   *
   * @throws BlockError with QEMU's text; nothing stays open or named.
   */
  async open(
    filename: string | undefined,
    options: OptionDict | OptionTree = {},
    flags: Partial<OpenFlags> = {},
  ): Promise<BlockNode> {
    const dict = options instanceof OptionDict ? options.clone() : OptionDict.fromTree(options)
    return await openInherit(this, { filename, options: dict, flags })
  }

  /** @internal Opens what a parent or an image asks for. */
  async openRequest(request: OpenRequest): Promise<BlockNode> {
    return await openInherit(this, request)
  }

  /** The node called `name`. */
  findNode(name: string): BlockNode | undefined {
    return this.names.find(name)
  }

  /** The backend called `name`; anonymous ones cannot be found. */
  findBackend(name: string): Backend | undefined {
    if (name === '') {
      return undefined
    }
    for (const backend of this.backends) {
      if (backend.name === name) {
        return backend
      }
    }
    return undefined
  }

  /** A device by name, else a node by name (seed row 66). */
  lookup(device: string | undefined, nodeName: string | undefined): BlockNode {
    if (device !== undefined) {
      const backend = this.findBackend(device)
      if (backend !== undefined) {
        if (backend.root === undefined) {
          throw blockError('ENOMEDIUM', `Device '${device}' has no medium`)
        }
        return backend.root.node
      }
    }
    const node = nodeName === undefined ? undefined : this.findNode(nodeName)
    if (node === undefined) {
      throw blockError('ENODEV', `Cannot find device='${device ?? ''}' nor node-name='${nodeName ?? ''}'`)
    }
    return node
  }

  ref(node: BlockNode): BlockNode {
    node.references++
    return node
  }

  /** Gives back a reference; the last one closes the node (seed row 57). Undefined is a no-op. */
  async unref(node: BlockNode | undefined): Promise<void> {
    if (node === undefined) {
      return
    }
    if (node.references <= 0) {
      throw new Error(`${node.description} has no references left`)
    }
    node.references--
    if (node.references === 0) {
      await closeNode(node)
    }
  }

  #topNode(): BlockNode | undefined {
    for (const node of this.nodes) {
      if (node.parents.length === 0 && node.references > 0) {
        return node
      }
    }
    return undefined
  }

  /** Closes all backends, then every node that is left (seed row 56). */
  async closeAll(): Promise<void> {
    for (const backend of [...this.backends]) {
      await backend.close()
    }
    this.userNodes.clear()
    // From the top down: a node that the user made may be a child of another one.
    for (let next = this.#topNode(); next !== undefined; next = this.#topNode()) {
      next.references = 0
      await closeNode(next)
    }
    this.objects.disposeAll()
  }
}

export function createBlockLayer(options: BlockLayerOptions): BlockLayer {
  return new BlockLayer(options)
}
