import { blockError, codeOf, isBlockError, prefixed, strerror } from '../errors/index.js'
import { OptionDict, type OptionTree } from '../options/index.js'
import { drain } from './drain.js'
import type { ReopenPlan } from './driver-operations.js'
import { checkNotFrozen, type EdgeChange, repointEdge, swapBacking } from './edge-change.js'
import { refreshFilename } from './filenames.js'
import type { OpenFlags } from './flags.js'
import { refreshLength, refreshLimits } from './geometry.js'
import { inheritOptions } from './inherit.js'
import type { BlockLayer } from './layer.js'
import { isBelow } from './lifecycle.js'
import type { BlockNode } from './node.js'
import { deviceOrNodeName } from './op-blockers.js'
import { settlePermissions } from './permissions.js'
import {
  checkResettable,
  checkUnchanged,
  joinOldOptions,
  type NodeMode,
  takeNodeMode,
} from './reopen-options.js'
import { notifyResize } from './resize.js'

/** What one node shall become. */
interface Entry {
  readonly node: BlockNode
  /** Options in effect afterwards, children's taken out. */
  options: OptionDict
  explicit: OptionDict
  /** Whether discards are passed on unless an option says so. */
  unmap: boolean
  /** The caller left the backing file out although options are not kept. */
  backingMissing: boolean
}

/** An entry whose driver is prepared. */
interface Prepared {
  readonly entry: Entry
  readonly mode: NodeMode
  readonly plan: ReopenPlan
}

/** What a child of a queued node inherits. */
interface FromParent {
  readonly node: BlockNode
  readonly options: OptionDict
  readonly role: number
}

/**
 * Changes options of open nodes: access mode, cache mode, what the driver can change, and which nodes
 * are the `backing` and `file` children. All nodes of the queue change together or none does (seed
 * rows 78-82, today's rules).
 */
export class ReopenQueue {
  readonly #layer: BlockLayer
  readonly #entries = new Map<BlockNode, Entry>()

  constructor(layer: BlockLayer) {
    this.#layer = layer
  }

  /** Nodes that will be reopened, in order. */
  get nodes(): BlockNode[] {
    return [...this.#entries.keys()]
  }

  /**
   * Queues `node` and the children that inherit from it. An option comes from `options`, else from
   * what was given explicitly before, else from the parent, else from what was in effect. Without
   * `keepOld` the second and fourth are left out: what is not given goes back to its default.
   * A node that is queued already takes the new options on top.
   */
  add(node: BlockNode, options: OptionDict | OptionTree, keepOld = true): this {
    const given = options instanceof OptionDict ? options.clone() : OptionDict.fromTree(options)
    this.#add(node, given, keepOld, undefined)
    return this
  }

  #add(node: BlockNode, options: OptionDict, keepOld: boolean, parent: FromParent | undefined): void {
    const known = this.#entries.get(node)
    if (known !== undefined || keepOld) {
      joinOldOptions(node, options, (known?.explicit ?? node.explicitOptions).clone())
    }
    const explicit = options.clone()
    let { unmap } = node.flags
    if (parent !== undefined) {
      const { node: above, role } = parent
      const isFormat = above.driver?.kind === 'format'
      unmap = inheritOptions(role, isFormat, above.flags, parent.options, options).unmap
    }
    if (keepOld) {
      joinOldOptions(node, options, (known?.options ?? node.options).clone())
    }
    const entry: Entry = known ?? { node, options, explicit, unmap, backingMissing: false }
    entry.options = options
    entry.explicit = explicit
    entry.unmap = unmap
    entry.backingMissing = !keepOld && !options.has('backing') && !options.has('backing.driver')
    this.#entries.set(node, entry)
    for (const child of node.children) {
      if (child.node.inheritsFrom !== node) {
        continue
      }
      let keepChild = keepOld
      if (options.has(child.name)) {
        if (options.get(child.name) !== child.node.name) {
          // It is about to be replaced.
          continue
        }
        keepChild = true
      }
      explicit.takeSubtree(`${child.name}.`)
      const own = options.takeSubtree(`${child.name}.`)
      this.#add(child.node, own, keepChild, { node, options, role: child.role })
    }
  }

  /**
   * Does it: waits for requests and holds new ones back, flushes, prepares every node, settles the
   * permissions of the new graph, and commits in reverse order. On an error all nodes are exactly as
   * before.
   *
   * @throws BlockError with QEMU's text
   */
  async run(): Promise<void> {
    const section = await drain(this.nodes)
    try {
      await this.#runDrained()
    } finally {
      section.end()
    }
  }

  async #runDrained(): Promise<void> {
    for (const node of this.nodes) {
      await flush(node)
    }
    const prepared: Prepared[] = []
    const edges: EdgeChange[] = []
    try {
      for (const entry of this.#entries.values()) {
        prepared.push(await prepare(entry))
      }
      await this.#layer.graphLock.run(() => this.#settle(prepared, edges))
    } catch (error) {
      for (const { plan } of prepared) {
        plan.abort()
      }
      throw error
    }
    await finishAll([
      ...prepared.reverse().map(({ plan }) => plan.finish?.bind(plan)),
      ...edges.map((change) => change.finish),
    ])
  }

  /** The synchronous change of graph and flags, its permissions, and the commits. */
  async #settle(prepared: readonly Prepared[], edges: EdgeChange[]): Promise<void> {
    const undo: (() => void)[] = []
    try {
      const affected: BlockNode[] = []
      for (const { entry, mode } of prepared) {
        const made = replaceChildren(entry)
        undo.push(...made.map((change) => change.undo))
        edges.push(...made)
        affected.push(entry.node, ...made.flatMap((change) => change.affected))
        undo.push(applyMode(entry.node, mode))
      }
      await settlePermissions(affected)
    } catch (error) {
      for (const step of undo.reverse()) {
        step()
      }
      throw error
    }
    for (const { entry, mode, plan } of [...prepared].reverse()) {
      plan.commit()
      commitNode(entry, mode)
    }
    for (const { entry } of prepared) {
      refreshFilename(entry.node)
    }
  }
}

/** Flushes before anything is touched: what cannot be written now must not be lost by the change. */
async function flush(node: BlockNode): Promise<void> {
  try {
    const wait = node.flush()
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    throw prefixed(error, 'Error flushing drive: ')
  }
}

/** Checks everything about one node and prepares its driver. Throws without leaving anything prepared. */
async function prepare(entry: Entry): Promise<Prepared> {
  const { node } = entry
  const { driver } = node
  if (driver === undefined) {
    throw blockError('ENOMEDIUM', 'No medium found')
  }
  const left = entry.options.clone()
  const mode = takeNodeMode(left, entry.unmap)
  checkMode(node, mode)
  if (node.state?.prepareReopen === undefined) {
    throw blockError(
      'ENOTSUP',
      `Block format '${driver.name}' used by node '${deviceOrNodeName(node)}' does not support reopening files`,
    )
  }
  checkResettable(node, entry.options)
  let plan: ReopenPlan
  try {
    plan = await node.state.prepareReopen({ node, options: left, ...mode })
  } catch (error) {
    if (isBlockError(error) && error.message === strerror(error.code)) {
      refreshFilename(node)
      throw blockError(error.code, `failed while preparing to reopen image '${node.filename}'`, {
        cause: error,
      })
    }
    throw error
  }
  try {
    if (driver.supportsBacking === true && entry.backingMissing) {
      if (node.backing !== undefined || node.backingFile !== '') {
        throw blockError('EINVAL', `backing is missing for '${node.name}'`)
      }
    }
    checkChild(entry, 'backing')
    checkChild(entry, 'file')
    left.delete('backing')
    left.delete('file')
    checkUnchanged(node, left)
  } catch (error) {
    plan.abort()
    throw error
  }
  return { entry, mode, plan }
}

function checkMode(node: BlockNode, mode: NodeMode): void {
  const { layer, driver } = node
  if (mode.readOnly && node.copyOnRead !== 0) {
    throw blockError('EINVAL', `Can't set node '${node.name}' to r/o with copy-on-read enabled`)
  }
  if (!mode.readOnly && node.forceShare) {
    throw blockError('EINVAL', 'force-share=on can only be used with read-only images')
  }
  if (driver !== undefined && !mode.readOnly && node.readOnly && !layer.isWhitelisted(driver, false)) {
    throw blockError('ENOTSUP', `Driver '${driver.name}' can only be used for read-only devices`)
  }
}

/** The node that shall become the child `name`: `undefined` to detach it, `false` to leave it alone. */
function wantedChild(entry: Entry, name: 'backing' | 'file'): BlockNode | undefined | false {
  const value = entry.options.get(name)
  if (value === undefined) {
    return false
  }
  const { node } = entry
  const current = node.child(name)?.node
  if (value === null) {
    return current === undefined ? false : undefined
  }
  const wanted = node.layer.lookup(undefined, String(value))
  return wanted === current ? false : wanted
}

/** Throws if the child `name` cannot be replaced as asked. */
function checkChild(entry: Entry, name: 'backing' | 'file'): void {
  const { node } = entry
  const wanted = wantedChild(entry, name)
  if (wanted === false) {
    return
  }
  const { driver } = node
  if (wanted !== undefined && isBelow(wanted, node)) {
    throw blockError(
      'EINVAL',
      `Making '${wanted.name}' a ${name} child of '${node.name}' would create a cycle`,
    )
  }
  const edge = node.child(name)
  if (node.isFilter && edge === undefined) {
    throw blockError(
      'EINVAL',
      `'${node.name}' is a ${driver?.name} filter node that does not support a ${name} child`,
    )
  }
  checkNotFrozen(edge)
  if (name === 'backing') {
    if (!node.isFilter && driver?.supportsBacking !== true) {
      throw blockError(
        'EINVAL',
        `Driver '${driver?.name}' of node '${node.name}' does not support backing files`,
      )
    }
  } else if (edge === undefined) {
    throw blockError('EINVAL', 'Cannot set file child to format node without file child')
  } else if (wanted === undefined) {
    throw blockError('EINVAL', "Cannot change the option 'file'")
  }
}

/** Makes the wanted nodes children. Undoes its own work if it throws. */
function replaceChildren(entry: Entry): EdgeChange[] {
  const made: EdgeChange[] = []
  try {
    const backing = wantedChild(entry, 'backing')
    if (backing !== false) {
      made.push(swapBacking(entry.node, backing))
    }
    const file = wantedChild(entry, 'file')
    const edge = entry.node.child('file')
    if (file !== false && file !== undefined && edge !== undefined) {
      made.push(repointEdge(edge, file))
    }
  } catch (error) {
    for (const change of made.reverse()) {
      change.undo()
    }
    throw error
  }
  return made
}

/** Puts access and cache mode into effect; the result puts the old ones back. */
function applyMode(node: BlockNode, mode: NodeMode): () => void {
  const { flags, readOnly, noFlush, unmapAllowed } = node
  const write = !mode.readOnly
  const changed: OpenFlags = {
    ...flags,
    write,
    allowWrite: flags.allowWrite || write,
    noIo: flags.noIo && !write,
    unmap: mode.unmap,
  }
  node.flags = changed
  node.readOnly = mode.readOnly || flags.inactive
  node.noFlush = mode.noFlush
  node.unmapAllowed = mode.unmap
  return () => {
    node.flags = flags
    node.readOnly = readOnly
    node.noFlush = noFlush
    node.unmapAllowed = unmapAllowed
  }
}

function commitNode(entry: Entry, mode: NodeMode): void {
  const { node, options, explicit } = entry
  // Which nodes are its children is no option of the node.
  for (const key of ['backing', ...node.children.map((child) => child.name)]) {
    for (const dict of [options, explicit]) {
      dict.delete(key)
      dict.takeSubtree(`${key}.`)
    }
  }
  node.options = options
  node.explicitOptions = explicit
  node.detectZeroes = mode.detectZeroes
  const { length } = node
  refreshLimits(node)
  refreshLength(node)
  if (node.length !== length) {
    notifyResize(node)
  }
}

/** Runs every step; the first failure is thrown when all have run. */
async function finishAll(steps: readonly ((() => unknown) | undefined)[]): Promise<void> {
  let failure: unknown
  for (const step of steps) {
    try {
      await step?.()
    } catch (error) {
      failure ??= error
    }
  }
  if (failure !== undefined) {
    throw failure
  }
}

/** Reopens one node and what inherits from it (seed row 82). */
export async function reopenNode(
  node: BlockNode,
  options: OptionDict | OptionTree,
  keepOld = true,
): Promise<void> {
  await new ReopenQueue(node.layer).add(node, options, keepOld).run()
}

/** Makes a node writable or read-only; everything else stays. */
export async function reopenSetReadOnly(node: BlockNode, readOnly: boolean): Promise<void> {
  await reopenNode(node, { 'read-only': readOnly })
}

/**
 * Runs `body` while `node` is writable. If it was read-only it is so again afterwards, whatever
 * happened (seed row 88): what `body` did stands, so a failure of that is not reported.
 *
 * @throws BlockError the error of making the node writable, or that of `body`
 */
export async function whileWritable<T>(node: BlockNode, body: () => Promise<T>): Promise<T> {
  if (!node.readOnly) {
    return await body()
  }
  await reopenSetReadOnly(node, false)
  try {
    return await body()
  } finally {
    await reopenSetReadOnly(node, true).catch(codeOf)
  }
}
