import { blockError } from '../errors/index.js'
import { type AccountedKind, type AccountingInterval, accountedKinds, IoAccounting } from '../io/index.js'
import type { OptionTree } from '../options/index.js'
import type { Backend } from './backend.js'
import { Role } from './flags.js'
import type { BlockLayer } from './layer.js'
import { type DeviceReference, findDevice } from './medium.js'
import type { BlockNode } from './node.js'

/** QAPI's prefixes of the kinds. */
const prefixes: Readonly<Record<AccountedKind, string>> = {
  read: 'rd',
  write: 'wr',
  flush: 'flush',
  unmap: 'unmap',
}

const none = new IoAccounting({ clock: () => 0, accountInvalid: false, accountFailed: false })

function timedStats({ length, latency }: AccountingInterval, now: number): OptionTree {
  const out: Record<string, number> = { interval_length: length }
  const kinds = ['read', 'write', 'flush'] as const
  for (const kind of kinds) {
    const { min, max, average } = latency[kind].figures(now)
    out[`min_${prefixes[kind]}_latency_ns`] = Math.round(min)
    out[`max_${prefixes[kind]}_latency_ns`] = Math.round(max)
    out[`avg_${prefixes[kind]}_latency_ns`] = Math.floor(average)
  }
  for (const kind of ['read', 'write'] as const) {
    const { sum, elapsed } = latency[kind].figures(now)
    out[`avg_${prefixes[kind]}_queue_depth`] = elapsed === 0 ? 0 : sum / elapsed
  }
  return out
}

/** QAPI `BlockDeviceStats` of an accounting; `highestWrite` in bytes. */
export function blockDeviceStats(accounting: IoAccounting | undefined, highestWrite: number): OptionTree {
  const from = accounting ?? none
  const { counters } = from
  const out: Record<string, OptionTree[string]> = {}
  const each = (name: (prefix: string) => string, kinds: readonly AccountedKind[], value: keyof Counters) => {
    for (const kind of kinds) {
      out[name(prefixes[kind])] = Math.round(counters[kind][value])
    }
  }
  const transfers = ['read', 'write', 'unmap'] as const
  each((prefix) => `${prefix}_bytes`, transfers, 'bytes')
  each((prefix) => `${prefix}_operations`, accountedKinds, 'operations')
  each((prefix) => `${prefix}_total_time_ns`, accountedKinds, 'totalTime')
  out.wr_highest_offset = highestWrite
  each((prefix) => `${prefix}_merged`, transfers, 'merged')
  const idle = from.idleTime
  if (idle !== undefined) {
    out.idle_time_ns = Math.round(idle)
  }
  each((prefix) => `failed_${prefix}_operations`, accountedKinds, 'failed')
  each((prefix) => `invalid_${prefix}_operations`, accountedKinds, 'invalid')
  out.account_invalid = from.accountInvalid
  out.account_failed = from.accountFailed
  const now = from.now()
  out.timed_stats = from.intervals.map((interval) => timedStats(interval, now))
  for (const kind of ['read', 'write', 'flush'] as const) {
    const histogram = from.histograms[kind]
    if (histogram !== undefined) {
      out[`${prefixes[kind]}_latency_histogram`] = {
        boundaries: histogram.boundaries,
        bins: [...histogram.bins],
      }
    }
  }
  return out
}

type Counters = IoAccounting['counters']['read']

/** The child whose statistics are shown as the node's `parent`: the primary one if it has data, else the only one that has. */
function storageChild(node: BlockNode): BlockNode | undefined {
  const primary = node.children.find((child) => (child.role & Role.primary) !== 0)
  if (primary !== undefined && (primary.role & (Role.data | Role.filtered)) !== 0) {
    return primary.node
  }
  const data = node.children.filter((child) => (child.role & Role.data) !== 0)
  return data.length === 1 ? data[0]?.node : undefined
}

/** QAPI `BlockStats` of a node and of what is below it; of its backing file only if asked to. */
export function nodeStats(node: BlockNode, withBacking = true): OptionTree {
  const storage = storageChild(node)
  const specific = node.state?.statistics?.()
  return {
    'node-name': node.name,
    ...(specific === undefined
      ? {}
      : { 'driver-specific': { driver: node.driver?.name ?? '', ...specific } }),
    stats: blockDeviceStats(node.accounting, node.highestWrite),
    ...(storage === undefined ? {} : { parent: nodeStats(storage, withBacking) }),
    ...(node.backing === undefined || !withBacking ? {} : { backing: nodeStats(node.backing) }),
  }
}

/** QAPI `BlockStats` of a device: its own counters, and those of the nodes below. */
export function backendStats(backend: Backend): OptionTree {
  const node = backend.root?.node
  return {
    device: backend.name,
    ...(backend.device.id === '' ? {} : { qdev: backend.device.id }),
    ...(node === undefined ? {} : nodeStats(node)),
    stats: blockDeviceStats(backend.accounting, node?.highestWrite ?? 0),
  }
}

/** `query-blockstats`: one entry for each device with a name or a device model, or for each node. */
export function queryBlockStats(layer: BlockLayer, queryNodes = false): OptionTree[] {
  if (queryNodes) {
    return [...layer.names.nodes()].map((node) => nodeStats(node, false))
  }
  return [...layer.backends]
    .filter(({ name, device }) => name !== '' || device.model !== undefined)
    .map(backendStats)
}

/** Boundaries in nanoseconds, ascending; those of one kind win over the common ones. */
export interface HistogramBoundaries {
  readonly all?: readonly number[]
  readonly read?: readonly number[]
  readonly write?: readonly number[]
  readonly flush?: readonly number[]
}

/**
 * `block-latency-histogram-set`: starts histograms of a device's latencies, from zero. Without any
 * boundaries all of them end.
 *
 * @throws BlockError ENODEV, EINVAL
 */
export function setLatencyHistogram(
  layer: BlockLayer,
  reference: DeviceReference,
  boundaries: HistogramBoundaries,
): void {
  const backend = findDevice(layer, reference)
  const given = (['read', 'write', 'flush'] as const).map(
    (kind) => [kind, boundaries[kind] ?? boundaries.all] as const,
  )
  if (given.every(([, values]) => values === undefined)) {
    backend.accounting?.clearHistograms()
    return
  }
  backend.accounting ??= new IoAccounting()
  for (const [kind, values] of given) {
    if (values === undefined) {
      continue
    }
    try {
      backend.accounting.setHistogram(kind, values)
    } catch (error) {
      const name = reference.id ?? reference.device
      throw blockError('EINVAL', `Device '${name}' set ${kind} boundaries fail`, { cause: error })
    }
  }
}

/**
 * `block-set-write-threshold`: the next write that ends behind `threshold` (bytes) is told once, by
 * BLOCK_WRITE_THRESHOLD. 0 ends that.
 *
 * @throws BlockError ENODEV
 */
export function setWriteThreshold(layer: BlockLayer, nodeName: string, threshold: number): void {
  const node = layer.findNode(nodeName)
  if (node === undefined) {
    throw blockError('ENODEV', `Device '${nodeName}' not found`)
  }
  node.writeThreshold = threshold === 0 ? Number.POSITIVE_INFINITY : threshold
}

/** The threshold in effect, bytes; 0: none. */
export function writeThreshold(node: BlockNode): number {
  return node.writeThreshold === Number.POSITIVE_INFINITY ? 0 : node.writeThreshold
}
