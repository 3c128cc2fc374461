import type { Host } from '../host/index.js'
import { IoNode } from '../io/index.js'
import type { OptionDict } from '../options/index.js'
import type { AioContext, AioNotifier } from './aio-context.js'
import type { BlockChild, EdgeParent } from './child.js'
import { DirtyBitmaps } from './dirty-bitmaps.js'
import type { BlockDriver, DriverState } from './driver.js'
import { noFlags, type OpenFlags, Role } from './flags.js'
import type { BlockLayer } from './layer.js'
import { OpBlockers } from './op-blockers.js'

/**
 * A node of the block graph: an opened image, file or filter.
 *
 * Nodes are made by {@link BlockLayer.open} and live as long as something refers to them: an edge
 * from a parent, or a user's own reference (`ref`/`unref`).
 */
export class BlockNode extends IoNode implements EdgeParent {
  readonly layer: BlockLayer
  /** Undefined after close. */
  driver: BlockDriver | undefined = undefined
  state: DriverState | undefined = undefined
  readonly children: BlockChild[] = []
  readonly parents: BlockChild[] = []
  /** Generated as `#block<N>` or chosen by the user. */
  name = ''
  flags: OpenFlags = { ...noFlags }
  /** Options in effect, flattened, without those of children. */
  options: OptionDict
  /** Options given for this node itself, as opposed to inherited ones. */
  explicitOptions: OptionDict
  /** Name the node can be shown by: `exactFilename`, or `json:{…}`. */
  filename = ''
  /** Plain name that opens exactly this node, or empty. */
  exactFilename = ''
  /** Backing file name as recorded in the image, and its format; empty if none. */
  backingFile = ''
  backingFormat = ''
  /** Backing file name that would be used if nothing overrides it (as recorded, or resolved at open). */
  autoBackingFile = ''
  /** Format was guessed by probing. */
  probed = false
  /** A filter that an operation put in, not the user: names look through it. */
  implicit = false
  /** Parent whose options this node inherited from, if any. */
  inheritsFrom: BlockNode | undefined = undefined
  /** `force-share=on`: no locks, nothing is promised. */
  forceShare = false
  readonly opBlockers = new OpBlockers()
  readonly dirtyBitmaps = new DirtyBitmaps(this)
  /** Blocks operations on the backing node while it is one. */
  readonly backingBlocker = { message: '' }
  /** Where the node's I/O takes place; see changeAioContext. */
  aioContext: AioContext
  /** @internal Newest first. */
  readonly aioNotifiers: AioNotifier[] = []
  readonly closeListeners = new Set<() => void>()
  references = 1

  constructor(layer: BlockLayer, options: OptionDict, explicitOptions: OptionDict) {
    super()
    this.layer = layer
    this.aioContext = layer.mainContext
    this.options = options
    this.explicitOptions = explicitOptions
    this.onGrow = () => {
      for (const edge of [...this.parents]) {
        edge.parent.resized?.()
      }
    }
    this.onThreshold = (exceeded, threshold) => {
      layer.events.emit('BLOCK_WRITE_THRESHOLD', {
        'node-name': this.name,
        'amount-exceeded': exceeded,
        'write-threshold': threshold,
      })
    }
  }

  get nodeName(): string {
    return this.name
  }

  get host(): Host {
    return this.layer.host
  }

  get parentNode(): BlockNode {
    return this
  }

  get description(): string {
    return `node '${this.name}'`
  }

  /** The child called `name`. */
  child(name: string): BlockChild | undefined {
    return this.children.find((child) => child.name === name)
  }

  /** The protocol (or filtered) child below, if any. */
  get file(): BlockNode | undefined {
    return this.child('file')?.node
  }

  /** The child whose contents this node's contents chiefly are. */
  get primary(): BlockNode | undefined {
    return this.children.find((child) => (child.role & Role.primary) !== 0)?.node
  }

  /** The node that unallocated ranges show (role cow). Hot: kept up to date by the graph. */
  get backing(): BlockNode | undefined {
    return this.cowNode
  }

  /** @internal */
  cowNode: BlockNode | undefined = undefined
  /** @internal */
  filterNode: BlockNode | undefined = undefined
  /** @internal */
  childNodes: readonly BlockNode[] = []

  get backingNode(): BlockNode | undefined {
    return this.cowNode
  }

  get filteredNode(): BlockNode | undefined {
    return this.filterNode
  }

  get flushNodes(): readonly BlockNode[] {
    return this.childNodes
  }

  /** Whether the node only passes things on (a filter driver). */
  get isFilter(): boolean {
    return this.driver?.kind === 'filter'
  }

  /** @internal Recomputes what the hot path reads of the children. */
  childrenChanged(): void {
    this.cowNode = this.children.find((child) => (child.role & Role.cow) !== 0)?.node
    // Only filters forward on their own; a format without a window (raw) merely has the same role.
    this.filterNode = this.isFilter
      ? this.children.find((child) => (child.role & Role.filtered) !== 0)?.node
      : undefined
    this.childDebug = this.primary?.debug
    // A backing node is read-only: flushing it would be for nothing.
    this.childNodes = this.children
      .filter((child) => (child.role & Role.cow) === 0)
      .map((child) => child.node)
  }
}
