import {
  appendNode,
  type BlockDriver,
  type BlockLayer,
  type BlockNode,
  type DriverState,
  drain,
  openWithDriver,
  Perm,
  replaceNode,
} from '../graph/index.js'
import { type DirectPath, ExtentFlags, type ExtentSink, type RangeResult, ReqFlags } from '../io/index.js'
import type { OptionTree } from '../options/index.js'
import type { Wait } from '../sched/index.js'

/**
 * Opens a filter of the layer's drivers with `node` as its file and lets it take over the parents of
 * `node`. Without a `name` it is one that file names do not show. The caller owns one reference to the
 * result; {@link dropFilter} takes it back.
 *
 * @throws BlockError from opening it, or if permissions conflict; nothing has changed then
 */
export async function insertFilter(
  node: BlockNode,
  driver: string,
  name: string | undefined,
  options: OptionTree,
): Promise<BlockNode> {
  const { layer } = node
  const section = await drain([node])
  try {
    const flags = { write: true, unmap: node.unmapAllowed }
    const named = name === undefined ? {} : { 'node-name': name }
    const filter = await layer.open(undefined, { driver, file: node.name, ...named, ...options }, flags)
    try {
      filter.implicit = name === undefined
      await replaceNode(node, filter)
    } catch (error) {
      await layer.unref(filter)
      throw error
    }
    return filter
  } finally {
    section.end()
  }
}

/** Takes a filter out of the graph: its parents get what is below it. Gives the caller's reference back. */
export async function dropFilter(filter: BlockNode): Promise<void> {
  const below = filter.filterNode
  if (below !== undefined) {
    await replaceNode(filter, below)
  }
  await filter.layer.unref(filter)
}

/**
 * Puts a job's own filter on top of `node`: it takes over the parents. The caller owns one reference to it.
 *
 * @throws BlockError if the name is malformed or taken, or permissions conflict
 */
export async function appendJobFilter(
  layer: BlockLayer,
  node: BlockNode,
  driver: BlockDriver,
  name: string | undefined,
  write: boolean,
): Promise<BlockNode> {
  const filter = await openWithDriver(layer, driver, name, { write })
  try {
    filter.implicit = name === undefined
    filter.length = node.length
    filter.unmapAllowed = node.unmapAllowed
    await appendNode(filter, node)
  } catch (error) {
    await layer.unref(filter)
    throw error
  }
  return filter
}

/** A filter of a job: reads and everything else go to the node that it was put on. */
export class JobFilter implements DriverState, DirectPath {
  readonly direct: DirectPath = this
  readonly variableLength = true
  readonly supportedWriteFlags: number = ReqFlags.writeUnchanged
  readonly supportedZeroFlags: number = ReqFlags.writeUnchanged | ReqFlags.mayUnmap | ReqFlags.noFallback
  protected readonly node: BlockNode

  constructor(node: BlockNode) {
    this.node = node
  }

  /** The node below. */
  protected get below(): BlockNode {
    const { filterNode } = this.node
    if (filterNode === undefined) {
      throw new Error('the filter of a job stands on nothing')
    }
    return filterNode
  }

  get length(): number {
    return this.node.filterNode?.length ?? 0
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.below.read(offset, bytes, buffer, bufferOffset, flags)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.below.write(offset, bytes, buffer, bufferOffset, flags)
  }

  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    out.bytes = bytes
    return this.below.writeZeroes(offset, bytes, flags & ~ReqFlags.zeroWrite)
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    out.bytes = bytes
    return this.below.discard(offset, bytes)
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    out.data(bytes, this.below, offset, ExtentFlags.raw)
    return undefined
  }

  exactFilename(): string | undefined {
    return this.node.filterNode?.exactFilename
  }

  close(): Wait {
    return undefined
  }
}

/** Wants nothing of the node below and allows everything. */
export const noDemands = { perm: 0, shared: Perm.all } as const
