import type { Wait } from '../sched/index.js'
import { BlockStatus } from './block-status.js'
import { ReqFlags } from './flags.js'
import { isZero } from './is-zero.js'
import type { IoNode } from './node.js'

/** Largest piece copied at once, bytes. */
const pieceBytes = 16 << 20

async function done(wait: Wait): Promise<void> {
  if (wait !== undefined) {
    await wait
  }
}

/**
 * Reads a range and writes what is not allocated in this layer into it, whole clusters at a time.
 * The caller holds a serialising request over the widened range.
 */
export async function copyOnReadRange(
  node: IoNode,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset: number,
): Promise<void> {
  const cluster = Math.max(node.clusterSize, node.limits.requestAlignment)
  const status = new BlockStatus()
  for (let at = offset; at < offset + bytes; ) {
    const left = offset + bytes - at
    await done(node.status(at, left, 'allocation', status))
    if (status.allocated || status.bytes === 0) {
      const chunk = status.bytes === 0 ? left : status.bytes
      await done(node.readDriver(at, chunk, buffer, bufferOffset + at - offset, 0))
      at += chunk
      continue
    }
    const start = at - (at % cluster)
    const wanted = Math.ceil((at + Math.min(status.bytes, pieceBytes)) / cluster) * cluster
    const end = Math.min(wanted, node.length)
    const copy = new Uint8Array(end - start)
    await done(node.readDriver(start, end - start, copy, 0, 0))
    if (isZero(copy, 0, copy.length)) {
      await done(zero(node, start, copy))
    } else {
      await node.debug?.event('cor_write')
      await done(
        node.writeDriver(start, copy.length, copy, 0, ReqFlags.writeUnchanged & node.supportedWriteFlags),
      )
    }
    node.flushState.writeGeneration++
    const chunk = Math.min(end - at, left)
    buffer.set(copy.subarray(at - start, at - start + chunk), bufferOffset + at - offset)
    at += chunk
  }
}

async function zero(node: IoNode, offset: number, data: Uint8Array): Promise<void> {
  const out = { bytes: 0 }
  for (let at = 0; at < data.length; at += out.bytes) {
    out.bytes = 0
    await done(node.map?.zero?.(offset + at, data.length - at, ReqFlags.zeroWrite, out))
    if (out.bytes === 0) {
      await done(node.writeDriver(offset + at, data.length - at, data, at, 0))
      return
    }
  }
}
