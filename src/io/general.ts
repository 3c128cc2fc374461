import { ioError } from '../errors/index.js'
import { settleAll, type Wait } from '../sched/index.js'
import { copyOnReadRange } from './copy-on-read.js'
import { ReqFlags } from './flags.js'
import { isZero } from './is-zero.js'
import { maxLength } from './limits.js'
import type { IoNode } from './node.js'
import type { TrackedRequest } from './requests.js'
import { writeZeroesRange } from './zero.js'

function checkRange(node: IoNode, operation: string, offset: number, bytes: number): void {
  if (!(offset >= 0 && bytes >= 0 && offset + bytes <= maxLength)) {
    throw ioError('EIO', { node: node.nodeName, operation, offset, bytes })
  }
}

/** The read that is not "aligned, inside, alone": see IoNode.read. */
export async function readGeneral(
  node: IoNode,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
  flags: number,
): Promise<void> {
  checkRange(node, 'read', offset, bytes)
  if (bytes === 0) {
    return
  }
  const request = node.requests.begin('read', offset, bytes)
  try {
    const align = node.limits.requestAlignment
    const copyOnRead = node.copyOnRead !== 0 || (flags & ReqFlags.copyOnRead) !== 0
    if (copyOnRead) {
      node.requests.makeSerialising(request, Math.max(node.clusterSize, align))
    }
    const conflict = node.requests.waitConflicts(request)
    if (conflict !== undefined) {
      await conflict
    }
    // Past the end of the node there is nothing to ask the driver for.
    const inside = Math.max(0, Math.min(bytes, node.length - offset))
    if (inside < bytes) {
      buffer.fill(0, bufferOffset + inside, bufferOffset + bytes)
    }
    if (inside === 0) {
      return
    }
    const start = offset - (offset % align)
    const end = Math.ceil((offset + inside) / align) * align
    if (start === offset && end === offset + inside) {
      await readAligned(node, offset, inside, buffer, bufferOffset, flags, copyOnRead)
      return
    }
    const padded = new Uint8Array(end - start)
    await readAligned(node, start, end - start, padded, 0, flags, copyOnRead)
    buffer.set(padded.subarray(offset - start, offset - start + inside), bufferOffset)
  } finally {
    node.requests.end(request)
  }
}

async function readAligned(
  node: IoNode,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
  flags: number,
  copyOnRead: boolean,
): Promise<void> {
  if (copyOnRead) {
    await copyOnReadRange(node, offset, bytes, buffer, bufferOffset)
    return
  }
  const max = node.maxTransfer
  if (bytes <= max) {
    const wait = node.readDriver(offset, bytes, buffer, bufferOffset, flags)
    if (wait !== undefined) {
      await wait
    }
    return
  }
  for (let done = 0; done < bytes; ) {
    const chunk = Math.min(max, bytes - done)
    const wait = node.readDriver(offset + done, chunk, buffer, bufferOffset + done, flags)
    if (wait !== undefined) {
      await wait
    }
    done += chunk
  }
}

/** The write that is not "aligned, inside, alone, plain": see IoNode.write. */
export async function writeGeneral(
  node: IoNode,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
  flags: number,
): Promise<void> {
  checkRange(node, 'write', offset, bytes)
  if (node.readOnly) {
    throw ioError('EPERM', { node: node.nodeName, operation: 'write', offset, bytes })
  }
  if (bytes === 0 && (flags & ReqFlags.writeCompressed) === 0) {
    return
  }
  const request = node.requests.begin('write', offset, bytes)
  try {
    const held = node.dirtyTracker?.beforeWrite()
    if (held !== undefined) {
      await held
    }
    node.checkThreshold(offset, bytes)
    await writeTracked(node, request, offset, bytes, buffer, bufferOffset, flags)
  } finally {
    node.requests.end(request)
  }
}

async function writeTracked(
  node: IoNode,
  request: TrackedRequest,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
  flags: number,
): Promise<void> {
  const align = node.limits.requestAlignment
  const start = offset - (offset % align)
  const end = Math.ceil((offset + bytes) / align) * align
  const unaligned = start !== offset || end !== offset + bytes
  if ((flags & ReqFlags.writeCompressed) !== 0) {
    await writeNoted(node, offset, bytes, async () => {
      const wait = node.writeDriver(offset, bytes, buffer, bufferOffset, flags)
      if (wait !== undefined) {
        await wait
      }
    })
    return
  }
  if (unaligned || (flags & ReqFlags.serialising) !== 0) {
    node.requests.makeSerialising(request, align)
  }
  const conflict = node.requests.waitConflicts(request)
  if (conflict !== undefined) {
    await conflict
  }
  if (!unaligned) {
    await writeNoted(node, offset, bytes, () =>
      writeAligned(node, offset, bytes, buffer, bufferOffset, flags),
    )
    return
  }
  // Read-modify-write of the first and last partial block.
  const padded = new Uint8Array(end - start)
  await readEdges(node, offset, bytes, start, padded)
  padded.set(buffer.subarray(bufferOffset, bufferOffset + bytes), offset - start)
  await writeNoted(node, offset, bytes, () =>
    writeAligned(node, start, end - start, padded, 0, flags & ~ReqFlags.serialising),
  )
}

/** Runs a write and keeps the books, also of one that fails. */
async function writeNoted(
  node: IoNode,
  offset: number,
  bytes: number,
  write: () => Promise<void>,
): Promise<void> {
  try {
    await write()
  } catch (error) {
    node.notWritten(offset, bytes)
    throw error
  }
  node.written(offset, bytes)
}

/** Fills the first and the last block of `padded`, as far as the request does not cover them. */
async function readEdges(
  node: IoNode,
  offset: number,
  bytes: number,
  start: number,
  padded: Uint8Array,
): Promise<void> {
  const align = node.limits.requestAlignment
  const end = start + padded.length
  const oneBlock = padded.length === align
  const head = start !== offset || oneBlock
  const tail = end !== offset + bytes && !oneBlock
  const tailAt = padded.length - align
  const debug = node.debug
  if (debug === undefined) {
    await settleAll([
      head ? readBlock(node, start, align, padded, 0) : undefined,
      tail ? readBlock(node, end - align, align, padded, tailAt) : undefined,
    ])
    return
  }
  // One after the other, so that each event is about the read that follows it.
  if (head) {
    const both = oneBlock && end !== offset + bytes
    if (start !== offset) {
      await debug.event('pwritev_rmw_head')
    }
    if (both) {
      await debug.event('pwritev_rmw_tail')
    }
    await readBlock(node, start, align, padded, 0)
    if (start !== offset) {
      await debug.event('pwritev_rmw_after_head')
    }
    if (both) {
      await debug.event('pwritev_rmw_after_tail')
    }
  }
  if (tail) {
    await debug.event('pwritev_rmw_tail')
    await readBlock(node, end - align, align, padded, tailAt)
    await debug.event('pwritev_rmw_after_tail')
  }
}

/** Reads one block for padding; what lies past the end of the node is zero. */
function readBlock(
  node: IoNode,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
): Wait {
  if (offset >= node.length) {
    return undefined
  }
  return node.readDriver(offset, bytes, buffer, bufferOffset, 0)
}

async function writeAligned(
  node: IoNode,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
  flags: number,
): Promise<void> {
  if (
    node.detectZeroes !== 'off' &&
    (flags & ReqFlags.noFallback) === 0 &&
    isZero(buffer, bufferOffset, bytes)
  ) {
    const unmap = node.detectZeroes === 'unmap' ? ReqFlags.mayUnmap : 0
    const wait = writeZeroesRange(
      node,
      offset,
      bytes,
      (flags & ReqFlags.fua) | ReqFlags.zeroWrite | unmap,
      true,
    )
    if (wait !== undefined) {
      await wait
    }
    return
  }
  const debug = node.debug
  if (debug === undefined) {
    await writePieces(node, offset, bytes, buffer, bufferOffset, flags)
    return
  }
  await debug.event('pwritev')
  try {
    await writePieces(node, offset, bytes, buffer, bufferOffset, flags)
  } finally {
    await debug.event('pwritev_done')
  }
}

/** Hands the driver as much at a time as it takes. */
async function writePieces(
  node: IoNode,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
  flags: number,
): Promise<void> {
  const driverFlags = flags & node.supportedWriteFlags
  const max = node.maxTransfer
  for (let done = 0; done < bytes; ) {
    const chunk = Math.min(max, bytes - done)
    const wait = node.writeDriver(offset + done, chunk, buffer, bufferOffset + done, driverFlags)
    if (wait !== undefined) {
      await wait
    }
    done += chunk
  }
  if ((flags & ReqFlags.fua) !== 0 && (driverFlags & ReqFlags.fua) === 0) {
    node.flushState.writeGeneration++
    const wait = node.flush()
    if (wait !== undefined) {
      await wait
    }
  }
}
