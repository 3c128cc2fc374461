import { ioError } from '../errors/index.js'
import type { Zone, ZoneOperation } from '../host/index.js'
import type { Wait } from '../sched/index.js'
import type { ZoneOperations } from './driver-operations.js'
import type { BlockNode } from './node.js'

/** Zones are asked for in parts, so that no count that a caller names is allocated at once. */
const zonesPerReport = 4096

function operationsOf(node: BlockNode, operation: string, offset: number, bytes: number): ZoneOperations {
  const zones = node.state?.zones
  if (zones === undefined) {
    throw ioError('ENOTSUP', { node: node.name, operation, offset, bytes })
  }
  if (!(offset >= 0 && bytes >= 0 && offset + bytes <= node.length)) {
    throw ioError('EIO', { node: node.name, operation, offset, bytes })
  }
  return zones
}

/**
 * Up to `count` zones of a zoned device, from the one that contains `offset` on.
 *
 * @throws BlockError ENOTSUP if the device has no zones; EINVAL outside it
 */
export function* reportZones(node: BlockNode, offset: number, count: number): Generator<Zone> {
  const zones = operationsOf(node, 'zone-report', 0, 0)
  if (!(offset >= 0 && offset < node.length)) {
    throw ioError('EINVAL', { node: node.name, operation: 'zone-report', offset, bytes: 0 })
  }
  let at = offset
  for (let left = count; left > 0 && at < node.length; ) {
    const part = zones.report(at, Math.min(left, zonesPerReport))
    const last = part.at(-1)
    if (last === undefined) {
      return
    }
    yield* part
    left -= part.length
    at = Math.max(last.start + last.length, at + 1)
  }
}

/**
 * Opens, closes, fills up or empties whole zones. What is reset is lost.
 *
 * @throws BlockError ENOTSUP without zones; EINVAL for parts of zones; EIO outside the device; EPERM if read-only
 */
export async function manageZones(
  node: BlockNode,
  operation: ZoneOperation,
  offset: number,
  bytes: number,
): Promise<void> {
  const name = `zone-${operation}`
  const zones = operationsOf(node, name, offset, bytes)
  await changing(node, name, offset, bytes, () => zones.manage(operation, offset, bytes))
}

/**
 * Writes `buffer[bufferOffset, +bytes)` at the write pointer of the zone that starts at `offset`; the
 * result is where. Durable after a flush. The buffer stays untouched until then.
 *
 * @throws BlockError as {@link manageZones}, and ENOSPC if the rest of the zone is too small
 */
export async function appendToZone(
  node: BlockNode,
  offset: number,
  bytes: number,
  buffer: Uint8Array,
  bufferOffset = 0,
): Promise<number> {
  const zones = operationsOf(node, 'zone-append', offset, bytes)
  let place = 0
  await changing(node, 'zone-append', offset, zones.zoneBytes, async () => {
    place = await zones.append(offset, bytes, buffer, bufferOffset)
  })
  return place
}

/** Runs a request that may change a range, as the request path does for writes. */
async function changing(
  node: BlockNode,
  operation: string,
  offset: number,
  bytes: number,
  run: () => Wait,
): Promise<void> {
  if (node.readOnly) {
    throw ioError('EPERM', { node: node.name, operation, offset, bytes })
  }
  const request = node.requests.begin('write', offset, bytes)
  try {
    const held = node.dirtyTracker?.beforeWrite()
    if (held !== undefined) {
      await held
    }
    const conflict = node.requests.waitConflicts(request)
    if (conflict !== undefined) {
      await conflict
    }
    const wait = run()
    if (wait !== undefined) {
      await wait
    }
    node.changed(offset, Math.min(bytes, node.length - offset))
  } finally {
    node.requests.end(request)
  }
}
