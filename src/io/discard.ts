import { ioError } from '../errors/index.js'
import type { Wait } from '../sched/index.js'
import type { RangeResult } from './data-path.js'
import { maxLength, maxRequestBytes } from './limits.js'
import type { IoNode } from './node.js'

/**
 * Discards a range. Advisory: a node opened without `discard=unmap` ignores it, and so does a
 * driver that cannot; unaligned edges are left alone.
 */
export function discardRange(node: IoNode, offset: number, bytes: number): Wait {
  if (!(offset >= 0 && bytes >= 0 && offset + bytes <= maxLength)) {
    throw ioError('EIO', { node: node.nodeName, operation: 'discard', offset, bytes })
  }
  if (node.readOnly) {
    throw ioError('EPERM', { node: node.nodeName, operation: 'discard', offset, bytes })
  }
  if (bytes === 0 || !node.unmapAllowed) {
    return undefined
  }
  return run(node, offset, bytes)
}

async function run(node: IoNode, offset: number, bytes: number): Promise<void> {
  const request = node.requests.begin('discard', offset, bytes)
  try {
    const held = node.dirtyTracker?.beforeWrite()
    if (held !== undefined) {
      await held
    }
    const conflict = node.requests.waitConflicts(request)
    if (conflict !== undefined) {
      await conflict
    }
    try {
      await discardPieces(node, offset, bytes)
    } catch (error) {
      node.notWritten(offset, bytes)
      throw error
    }
    node.changed(offset, bytes)
  } finally {
    node.requests.end(request)
  }
}

async function discardPieces(node: IoNode, offset: number, bytes: number): Promise<void> {
  const limits = node.limits
  const align = Math.max(limits.discardAlignment, limits.requestAlignment)
  const max = limits.maxDiscard === 0 ? Math.floor(maxRequestBytes / align) * align : limits.maxDiscard
  const out: RangeResult = { bytes: 0 }
  const end = offset + bytes
  for (let at = offset; at < end; ) {
    let chunk = end - at
    if (at % align !== 0) {
      chunk = Math.min(chunk, align - (at % align))
    } else if (chunk > align) {
      chunk = Math.min(max, chunk - (chunk % align))
    }
    out.bytes = 0
    const wait = discardDriver(node, at, chunk, out)
    if (wait !== undefined) {
      await wait
    }
    at += out.bytes === 0 ? chunk : out.bytes
  }
}

function discardDriver(node: IoNode, offset: number, bytes: number, out: RangeResult): Wait {
  const align = node.limits.requestAlignment
  if (offset % align !== 0 || bytes % align !== 0) {
    return undefined
  }
  if (node.map !== undefined) {
    return node.map.discard?.(offset, bytes, out)
  }
  if (node.direct !== undefined) {
    return node.direct.discard?.(offset, bytes, out)
  }
  return node.filteredNode?.discard(offset, bytes)
}
