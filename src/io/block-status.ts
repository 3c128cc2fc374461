import type { Wait } from '../sched/index.js'
import type { ExtentSink } from './data-path.js'
import { ExtentFlags } from './flags.js'
import type { IoNode } from './node.js'

/** What is known about the extent at an offset. Reused by callers; every query sets all fields. */
export class BlockStatus {
  /** Length of the extent in bytes; 0 only past the end of the node. */
  bytes = 0
  /** The layer below must be read to know the contents. */
  data = false
  /** Reads as zeroes. */
  zero = false
  /** This layer, not one below it, decides the contents. */
  allocated = false
  /** The extent reaches the end of the node. */
  eof = false
  compressed = false
  /** Where the bytes are, if they stand there as they are. */
  node: IoNode | undefined = undefined
  offset = 0

  clear(): void {
    this.bytes = 0
    this.data = false
    this.zero = false
    this.allocated = false
    this.eof = false
    this.compressed = false
    this.node = undefined
    this.offset = 0
  }

  /** Whether the bytes stand at `node`/`offset`. */
  get offsetValid(): boolean {
    return this.node !== undefined
  }

  assign(other: BlockStatus): void {
    this.bytes = other.bytes
    this.data = other.data
    this.zero = other.zero
    this.allocated = other.allocated
    this.eof = other.eof
    this.compressed = other.compressed
    this.node = other.node
    this.offset = other.offset
  }
}

/** Keeps the first extent and merges what follows seamlessly. */
class FirstExtent implements ExtentSink {
  readonly #out: BlockStatus
  flags = 0
  #unallocated = false

  constructor(out: BlockStatus) {
    this.#out = out
  }

  #add(
    bytes: number,
    data: boolean,
    zero: boolean,
    compressed: boolean,
    node: IoNode | undefined,
    offset: number,
    flags: number,
  ): boolean {
    const out = this.#out
    const unallocated = !data && !zero
    if (out.bytes === 0) {
      out.bytes = bytes
      out.data = data
      out.zero = zero
      out.compressed = compressed
      out.node = node
      out.offset = offset
      this.flags = flags
      this.#unallocated = unallocated
      return !compressed
    }
    if (
      out.data !== data ||
      out.zero !== zero ||
      this.#unallocated !== unallocated ||
      compressed ||
      this.flags !== flags ||
      out.node !== node ||
      (node !== undefined && offset !== out.offset + out.bytes)
    ) {
      return false
    }
    out.bytes += bytes
    return true
  }

  data(bytes: number, node: IoNode, offset: number, flags: number): boolean {
    if ((flags & (ExtentFlags.encoded | ExtentFlags.nowhere)) !== 0) {
      // The bytes there are not the guest's.
      return this.#add(bytes, true, false, false, undefined, 0, 0)
    }
    return this.#add(bytes, (flags & ExtentFlags.raw) === 0, false, false, node, offset, flags)
  }

  zero(bytes: number, node?: IoNode, offset?: number): boolean {
    return this.#add(bytes, false, true, false, node, offset ?? 0, 0)
  }

  unallocated(bytes: number, node?: IoNode, offset?: number): boolean {
    return this.#add(bytes, false, false, false, node, offset ?? 0, 0)
  }

  encoded(bytes: number): boolean {
    return this.#add(bytes, true, false, true, undefined, 0, 0)
  }
}

/** Status of one layer; see IoNode.status. */
export function nodeStatus(
  node: IoNode,
  offset: number,
  bytes: number,
  want: 'zero' | 'allocation',
  out: BlockStatus,
): Wait {
  out.clear()
  if (offset >= node.length) {
    out.eof = true
    return undefined
  }
  const inside = Math.min(bytes, node.length - offset)
  if (inside === 0) {
    return undefined
  }
  const align = node.limits.requestAlignment
  const start = offset - (offset % align)
  const span = Math.min(node.length - start, Math.ceil((offset + inside - start) / align) * align)
  const sink = new FirstExtent(out)
  let wait: Wait
  if (node.map !== undefined) {
    try {
      wait = node.map.resolveRead(start, span, sink)
    } catch (error) {
      throwUnlessFound(error, out, offset - start)
    }
  } else if (node.direct !== undefined) {
    if (node.direct.status !== undefined) {
      wait = node.direct.status(start, span, want, sink)
    } else if (node.isProtocol) {
      sink.data(span, node, start, 0)
    } else {
      out.bytes = span
      out.data = true
      out.allocated = true
    }
  } else if (node.filteredNode !== undefined) {
    sink.data(span, node.filteredNode, start, ExtentFlags.raw)
  }
  if (wait !== undefined) {
    return finishLater(node, wait, sink, offset - start, inside, want, out)
  }
  return finish(node, sink, offset - start, inside, want, out)
}

/** An error behind what was found concerns who asks there. */
function throwUnlessFound(error: unknown, { bytes }: BlockStatus, skip: number): void {
  if (bytes <= skip) {
    throw error
  }
}

async function finishLater(
  node: IoNode,
  wait: Promise<void>,
  sink: FirstExtent,
  skip: number,
  inside: number,
  want: 'zero' | 'allocation',
  out: BlockStatus,
): Promise<void> {
  try {
    await wait
  } catch (error) {
    throwUnlessFound(error, out, skip)
  }
  const more = finish(node, sink, skip, inside, want, out)
  if (more !== undefined) {
    await more
  }
}

function finish(
  node: IoNode,
  sink: FirstExtent,
  skip: number,
  inside: number,
  want: 'zero' | 'allocation',
  out: BlockStatus,
): Wait {
  if (skip !== 0) {
    out.offset += skip
  }
  out.bytes = Math.min(out.bytes - skip, inside)
  const below = out.node
  if ((sink.flags & ExtentFlags.raw) !== 0 && below !== undefined) {
    const length = out.bytes
    const at = out.offset
    const wait = nodeStatus(below, at, length, want, out)
    return wait === undefined ? limitTo(out, length) : limitLater(wait, out, length)
  }
  out.allocated ||= out.data || out.zero
  if (!out.allocated && want === 'zero' && node.supportsBacking && node.backingNode === undefined) {
    out.zero = true
  }
  if ((sink.flags & ExtentFlags.recurse) !== 0 && want === 'zero' && out.data && below !== undefined) {
    const child = new BlockStatus()
    const wait = nodeStatus(below, out.offset, out.bytes, want, child)
    return wait === undefined ? refine(out, child) : refineLater(wait, out, child)
  }
  return undefined
}

function limitTo(out: BlockStatus, length: number): undefined {
  if (out.bytes === 0) {
    // The layer above is longer than the file below: what is missing reads as zeroes.
    out.bytes = length
    out.zero = true
    out.allocated = true
  }
  return undefined
}

async function limitLater(wait: Promise<void>, out: BlockStatus, length: number): Promise<void> {
  await wait
  limitTo(out, length)
}

function refine(out: BlockStatus, child: BlockStatus): undefined {
  if (child.eof && (child.bytes === 0 || child.zero)) {
    // Nothing behind the extent any more: it reads as zeroes.
    out.zero = true
  } else if (child.bytes !== 0) {
    out.bytes = Math.min(out.bytes, child.bytes)
    out.zero ||= child.zero
  }
  return undefined
}

async function refineLater(wait: Promise<void>, out: BlockStatus, child: BlockStatus): Promise<void> {
  await wait
  refine(out, child)
}

/** Status through the chain, with the depth of the layer that decides. */
export class ChainStatus extends BlockStatus {
  /** 0 = the node asked, counting nodes on the way down. */
  depth = 0
}

/**
 * Status of the extent at `offset` seen from `top`, going down the backing chain (and through
 * filters) to the layer that decides, but not into `base`; what only `base` or lower layers hold is
 * reported as not allocated.
 */
export async function chainStatus(
  top: IoNode,
  base: IoNode | undefined,
  offset: number,
  bytes: number,
  want: 'zero' | 'allocation',
  out: ChainStatus,
): Promise<void> {
  const first = top.status(offset, bytes, want, out)
  if (first !== undefined) {
    await first
  }
  markEof(top, offset, out)
  out.depth = 0
  if (out.bytes === 0 || out.allocated || top === base) {
    return
  }
  let eof = out.eof ? offset + out.bytes : -1
  let length = out.bytes
  const below = new BlockStatus()
  for (let node = nextBelow(top); node !== undefined && node !== base; node = nextBelow(node)) {
    const wait = node.status(offset, length, want, below)
    if (wait !== undefined) {
      await wait
    }
    markEof(node, offset, below)
    out.depth++
    out.assign(below)
    if (below.bytes === 0) {
      // This layer is short: the zeroes past its end are as good as allocated in it.
      out.bytes = length
      out.node = node
      out.node = undefined
      out.zero = true
      out.allocated = true
      out.data = false
      break
    }
    if (below.allocated) {
      out.eof = false
      break
    }
    length = below.bytes
    if (below.eof) {
      eof = offset + below.bytes
    }
  }
  out.eof = eof === offset + out.bytes
}

function markEof(node: IoNode, offset: number, status: BlockStatus): void {
  status.eof = offset + status.bytes >= node.length
}

/** The node that shows through where `node` allocates nothing. */
function nextBelow(node: IoNode): IoNode | undefined {
  return node.backingNode ?? node.filteredNode
}
