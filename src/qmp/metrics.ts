import { blockError, isBlockError } from '../errors/index.js'
import { type BlockLayer, blockDeviceStats } from '../graph/index.js'
import type { HostListener, HostSocket, HostSockets, SocketAddress } from '../host/index.js'
import { JobRegistry } from '../jobs/index.js'
import type { BlockExports } from './exports.js'

/** What the figures are about. */
export interface MetricsSource {
  readonly layer: BlockLayer
  readonly exports: BlockExports
}

type Labels = Readonly<Record<string, string>>

/** Text of Prometheus's exposition format: one family of samples after the other. */
class Exposition {
  readonly #lines: string[] = []

  family(name: string, type: 'gauge' | 'counter' | 'histogram', help: string): void {
    this.#lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`)
  }

  sample(name: string, labels: Labels, value: number): void {
    const inner = Object.entries(labels).map(([key, text]) => `${key}="${escaped(text)}"`)
    this.#lines.push(`${name}${inner.length === 0 ? '' : `{${inner.join(',')}}`} ${value}`)
  }

  get text(): string {
    return `${this.#lines.join('\n')}\n`
  }
}

function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}

interface Histogram {
  readonly boundaries: readonly number[]
  readonly bins: readonly number[]
}

const directions = [
  ['rd', 'read'],
  ['wr', 'write'],
  ['flush', 'flush'],
  ['unmap', 'discard'],
] as const

/** The state of a daemon for Prometheus: nodes, jobs, exports, requests and their latencies. */
export function metricsText({ layer, exports }: MetricsSource): string {
  const out = new Exposition()
  out.family('blockgraph_node_bytes', 'gauge', 'Length of a node.')
  for (const node of layer.names.nodes()) {
    const labels = { node: node.name, driver: node.driver?.name ?? '', read_only: String(node.readOnly) }
    out.sample('blockgraph_node_bytes', labels, node.length)
  }
  out.family('blockgraph_node_highest_write_bytes', 'gauge', 'Where the write that reached furthest ended.')
  for (const node of layer.names.nodes()) {
    out.sample('blockgraph_node_highest_write_bytes', { node: node.name }, node.highestWrite)
  }
  jobMetrics(out, layer)
  exportMetrics(out, exports)
  return out.text
}

function jobMetrics(out: Exposition, layer: BlockLayer): void {
  const jobs = JobRegistry.of(layer).query()
  out.family('blockgraph_job', 'gauge', 'A job that is there, by type and status.')
  for (const { id, type, status } of jobs) {
    out.sample('blockgraph_job', { id, type, status }, 1)
  }
  out.family('blockgraph_job_current_progress', 'gauge', 'What a job has done, in its own unit.')
  for (const job of jobs) {
    out.sample('blockgraph_job_current_progress', { id: job.id }, job['current-progress'])
  }
  out.family('blockgraph_job_total_progress', 'gauge', 'What a job has to do, as far as it knows.')
  for (const job of jobs) {
    out.sample('blockgraph_job_total_progress', { id: job.id }, job['total-progress'])
  }
}

function exportMetrics(out: Exposition, exports: BlockExports): void {
  const list = exports.list()
  out.family('blockgraph_export', 'gauge', 'An export that is there.')
  for (const { id, type, served } of list) {
    out.sample('blockgraph_export', { id, type, node: served.backend.root?.node.name ?? '' }, 1)
  }
  out.family('blockgraph_nbd_connections', 'gauge', 'Clients of the NBD server.')
  out.sample('blockgraph_nbd_connections', {}, exports.nbdServer?.connections ?? 0)
  const stats = list.map(({ id, served }) => ({
    id,
    figures: blockDeviceStats(served.backend.accounting, 0) as Readonly<Record<string, unknown>>,
  }))
  const counter = (name: string, member: string, help: string, scale = 1): void => {
    out.family(name, 'counter', help)
    for (const { id, figures } of stats) {
      for (const [prefix, operation] of directions) {
        const value = figures[member.replace('*', prefix)]
        if (typeof value === 'number') {
          out.sample(name, { export: id, operation }, value / scale)
        }
      }
    }
  }
  counter('blockgraph_export_operations_total', '*_operations', 'Requests that succeeded.')
  counter('blockgraph_export_failed_operations_total', 'failed_*_operations', 'Requests that failed.')
  counter('blockgraph_export_bytes_total', '*_bytes', 'Bytes of requests that succeeded.')
  counter('blockgraph_export_time_seconds_total', '*_total_time_ns', 'Time that requests took.', 1e9)
  out.family('blockgraph_export_latency_seconds', 'histogram', 'How long requests took.')
  for (const { id, figures } of stats) {
    for (const [prefix, operation] of directions) {
      const histogram = figures[`${prefix}_latency_histogram`] as Histogram | undefined
      const time = figures[`${prefix}_total_time_ns`]
      if (histogram !== undefined && typeof time === 'number') {
        histogramSamples(out, { export: id, operation }, histogram, time / 1e9)
      }
    }
  }
}

function histogramSamples(
  out: Exposition,
  labels: Labels,
  { boundaries, bins }: Histogram,
  sum: number,
): void {
  const name = 'blockgraph_export_latency_seconds'
  let count = 0
  for (const [at, bin] of bins.entries()) {
    count += bin
    const boundary = boundaries[at]
    const le = boundary === undefined ? '+Inf' : String(boundary / 1e9)
    out.sample(`${name}_bucket`, { ...labels, le }, count)
  }
  out.sample(`${name}_sum`, labels, sum)
  out.sample(`${name}_count`, labels, count)
}

/** Bytes of a request that are looked at. */
const maxRequestBytes = 8192
/** Connections at a time. */
const maxConnections = 16

/** Answers `GET /metrics` over HTTP. Only for clients on the same machine: there is no access control. */
export class MetricsServer {
  readonly #source: MetricsSource
  readonly #connections = new Set<HostSocket>()
  #listener: HostListener | undefined = undefined

  constructor(source: MetricsSource) {
    this.#source = source
  }

  /**
   * @returns the address, with the port that was chosen
   * @throws BlockError if the address is not the loopback's, or nobody can listen there
   */
  async listen(sockets: HostSockets | undefined, host: string, port: number): Promise<SocketAddress> {
    if (!/^(?:127\.\d+\.\d+\.\d+|::1|localhost)$/.test(host)) {
      throw blockError('EINVAL', `Metrics are only shown on this machine, not at '${host}'`)
    }
    if (sockets === undefined) {
      throw blockError('ENOTSUP', 'Sockets are not available here')
    }
    this.#listener = await sockets.listen({ type: 'inet', host, port }, {}, (socket) => this.#serve(socket))
    return this.#listener.address
  }

  async close(): Promise<void> {
    await this.#listener?.close()
    for (const socket of this.#connections) {
      socket.destroy()
    }
  }

  #serve(socket: HostSocket): void {
    if (this.#connections.size >= maxConnections) {
      socket.destroy()
      return
    }
    this.#connections.add(socket)
    const buffer = new Uint8Array(maxRequestBytes)
    let length = 0
    const done = (): void => {
      socket.onReadable = undefined
      this.#connections.delete(socket)
    }
    socket.onReadable = () => {
      try {
        for (;;) {
          const bytes = socket.read(buffer, length, maxRequestBytes - length)
          if (bytes === undefined) {
            return
          }
          length += bytes
          const text = new TextDecoder().decode(buffer.subarray(0, length))
          if (bytes === 0 || text.includes('\r\n\r\n') || length === maxRequestBytes) {
            done()
            void this.#answer(socket, text)
            return
          }
        }
      } catch (error) {
        done()
        socket.destroy()
        if (!isBlockError(error)) {
          throw error
        }
      }
    }
    socket.onReadable()
  }

  async #answer(socket: HostSocket, request: string): Promise<void> {
    const found = /^GET \/(?:metrics)?(?:\?\S*)? HTTP\/1\.[01]\r\n/.test(request)
    const body = found ? metricsText(this.#source) : 'Only GET /metrics is served.\n'
    const status = found ? '200 OK' : '404 Not Found'
    const type = found ? 'text/plain; version=0.0.4; charset=utf-8' : 'text/plain'
    const bytes = new TextEncoder().encode(body)
    const head = new TextEncoder().encode(
      `HTTP/1.1 ${status}\r\nContent-Type: ${type}\r\nContent-Length: ${bytes.length}\r\nConnection: close\r\n\r\n`,
    )
    try {
      await socket.write(head, 0, head.length)
      await socket.write(bytes, 0, bytes.length)
      socket.end()
    } catch (error) {
      socket.destroy()
      if (!isBlockError(error)) {
        throw error
      }
    }
  }
}
