import { ioError } from '../errors/index.js'
import type { Wait } from '../sched/index.js'
import type { RangeResult } from './data-path.js'
import { ReqFlags } from './flags.js'
import { maxLength, maxRequestBytes } from './limits.js'
import type { IoNode } from './node.js'

/** Largest buffer of zeroes written in one go when nothing better works, bytes. */
const bounceBytes = 1 << 20
const zeroes = new Uint8Array(bounceBytes)

/**
 * Zeroes a range: the driver's own way first, plain writes of zeroes for what it cannot do, unless
 * `noFallback` forbids that. `inRequest` says that the caller already tracks the request.
 */
export function writeZeroesRange(
  node: IoNode,
  offset: number,
  bytes: number,
  flags: number,
  inRequest = false,
): Wait {
  if (!(offset >= 0 && bytes >= 0 && offset + bytes <= maxLength)) {
    throw ioError('EIO', { node: node.nodeName, operation: 'write-zeroes', offset, bytes })
  }
  if (node.readOnly) {
    throw ioError('EPERM', { node: node.nodeName, operation: 'write-zeroes', offset, bytes })
  }
  if (bytes === 0) {
    return undefined
  }
  const unmap = node.unmapAllowed ? flags : flags & ~ReqFlags.mayUnmap
  return inRequest ? run(node, offset, bytes, unmap) : tracked(node, offset, bytes, unmap)
}

async function tracked(node: IoNode, offset: number, bytes: number, flags: number): Promise<void> {
  const request = node.requests.begin('write', offset, bytes)
  try {
    const held = node.dirtyTracker?.beforeWrite()
    if (held !== undefined) {
      await held
    }
    const align = node.limits.requestAlignment
    if (offset % align !== 0 || bytes % align !== 0) {
      node.requests.makeSerialising(request, align)
    }
    const conflict = node.requests.waitConflicts(request)
    if (conflict !== undefined) {
      await conflict
    }
    node.checkThreshold(offset, bytes)
    try {
      await run(node, offset, bytes, flags)
    } catch (error) {
      node.notWritten(offset, bytes)
      throw error
    }
    node.written(offset, bytes)
  } finally {
    node.requests.end(request)
  }
}

async function run(node: IoNode, offset: number, bytes: number, flags: number): Promise<void> {
  const debug = node.debug
  if (debug === undefined) {
    await runPieces(node, offset, bytes, flags)
    return
  }
  await debug.event('pwritev_zero')
  try {
    await runPieces(node, offset, bytes, flags)
  } finally {
    await debug.event('pwritev_done')
  }
}

async function runPieces(node: IoNode, offset: number, bytes: number, flags: number): Promise<void> {
  const limits = node.limits
  const align = Math.max(limits.zeroAlignment, limits.requestAlignment)
  const max = limits.maxZero === 0 ? Math.floor(maxRequestBytes / align) * align : limits.maxZero
  const out: RangeResult = { bytes: 0 }
  const end = offset + bytes
  for (let at = offset; at < end; ) {
    // Head up to the first boundary, whole blocks, tail: the driver gets what it can do best.
    const next = Math.ceil((at + 1) / align) * align
    let chunk = end - at
    if (at % align !== 0) {
      chunk = Math.min(chunk, next - at)
    } else if (chunk > align) {
      chunk = Math.min(max, chunk - (chunk % align))
    }
    out.bytes = 0
    const wait = zeroDriver(node, at, chunk, flags, out)
    if (wait !== undefined) {
      await wait
    }
    if (out.bytes === 0) {
      if ((flags & ReqFlags.noFallback) !== 0) {
        throw ioError('ENOTSUP', { node: node.nodeName, operation: 'write-zeroes', offset: at, bytes: chunk })
      }
      const written = writePlain(node, at, chunk)
      if (written !== undefined) {
        await written
      }
      out.bytes = chunk
    }
    at += out.bytes
  }
  if ((flags & ReqFlags.fua) !== 0) {
    node.flushState.writeGeneration++
    const wait = node.flush()
    if (wait !== undefined) {
      await wait
    }
  }
}

function zeroDriver(node: IoNode, offset: number, bytes: number, flags: number, out: RangeResult): Wait {
  const align = node.limits.requestAlignment
  if (offset % align !== 0 || bytes % align !== 0) {
    return undefined
  }
  const driverFlags = flags & (node.supportedZeroFlags | ReqFlags.zeroWrite)
  if (node.map !== undefined) {
    return node.map.zero?.(offset, bytes, driverFlags, out)
  }
  if (node.direct !== undefined) {
    return node.direct.zero?.(offset, bytes, driverFlags, out)
  }
  const filtered = node.filteredNode
  if (filtered === undefined) {
    return undefined
  }
  out.bytes = bytes
  return filtered.writeZeroes(offset, bytes, flags & ~ReqFlags.fua)
}

/** Writes zeroes as data. An unaligned edge is read, modified and written. */
async function writePlain(node: IoNode, offset: number, bytes: number): Promise<void> {
  const align = node.limits.requestAlignment
  const end = offset + bytes
  const limit = Math.min(bounceBytes, node.maxTransfer)
  for (let at = offset; at < end; ) {
    const head = at % align
    if (head !== 0 || end - at < align) {
      const chunk = Math.min(align - head, end - at)
      const block = new Uint8Array(align)
      const read = at - head < node.length ? node.readDriver(at - head, align, block, 0, 0) : undefined
      if (read !== undefined) {
        await read
      }
      block.fill(0, head, head + chunk)
      const written = node.writeDriver(at - head, align, block, 0, 0)
      if (written !== undefined) {
        await written
      }
      at += chunk
      continue
    }
    const chunk = Math.min(limit, end - at - ((end - at) % align))
    const written = node.writeDriver(at, chunk, zeroes, 0, 0)
    if (written !== undefined) {
      await written
    }
    at += chunk
  }
}
