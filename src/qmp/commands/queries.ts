import { type Backend, type BlockChild, type BlockNode, Perm, queryBlockStats } from '../../graph/index.js'
import { BlockJob, JobRegistry } from '../../jobs/index.js'
import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'
import type { ReturnOf, TypeOf } from '../schema/types.js'
import { blockInfo, describable, nodeInfo } from './node-info.js'

const permissionWords: readonly (readonly [number, TypeOf<'BlockPermission'>])[] = [
  [Perm.resize, 'resize'],
  [Perm.writeUnchanged, 'write-unchanged'],
  [Perm.write, 'write'],
  [Perm.consistentRead, 'consistent-read'],
]

function words(permissions: number): TypeOf<'BlockPermission'>[] {
  return permissionWords.filter(([bit]) => (permissions & bit) !== 0).map(([, word]) => word)
}

/** What there is. */
export function queryCommands({ layer }: CommandContext) {
  return defineHandlers({
    'query-block': async () => {
      const result: TypeOf<'BlockInfo'>[] = []
      for (const backend of layer.backends) {
        if (backend.name !== '' || backend.device.model !== undefined) {
          result.push(await blockInfo(backend))
        }
      }
      return result
    },
    'query-named-block-nodes': async ({ flat }) => {
      const result: TypeOf<'BlockDeviceInfo'>[] = []
      for (const node of layer.names.list()) {
        const info = await describable(nodeInfo(node, { flat: flat ?? false }))
        if (info !== undefined) {
          result.push(info)
        }
      }
      return result
    },
    'query-blockstats': (args) =>
      queryBlockStats(layer, args['query-nodes'] ?? false) as unknown as ReturnOf<'query-blockstats'>,
    'x-debug-query-block-graph': () =>
      new GraphPicture(layer.backends, JobRegistry.of(layer), [...layer.names.nodes()]).result,
  })
}

/** `x-debug-query-block-graph`. */
class GraphPicture {
  readonly #ids = new Map<object, number>()
  readonly #nodes: TypeOf<'XDbgBlockGraphNode'>[] = []
  readonly #edges: TypeOf<'XDbgBlockGraphEdge'>[] = []

  constructor(backends: Iterable<Backend>, jobs: JobRegistry, nodes: readonly BlockNode[]) {
    for (const backend of backends) {
      this.#node(backend, 'block-backend', backend.name === '' ? backend.device.id : backend.name)
      if (backend.root !== undefined) {
        this.#edge(backend, backend.root)
      }
    }
    const blockJobs = jobs.jobs.filter((job) => job instanceof BlockJob)
    for (const edge of blockJobs.flatMap((job) => job.devices)) {
      this.#node(edge, 'block-backend', '')
      this.#edge(edge, edge)
    }
    for (const job of blockJobs) {
      this.#node(job, 'block-job', job.id)
      for (const edge of job.nodes) {
        this.#edge(job, edge)
      }
    }
    for (const node of nodes) {
      this.#node(node, 'block-driver', node.name)
      for (const child of [...node.children].reverse()) {
        this.#edge(node, child)
      }
    }
  }

  get result(): TypeOf<'XDbgBlockGraph'> {
    return { nodes: [...this.#nodes].reverse(), edges: [...this.#edges].reverse() }
  }

  #id(thing: object): number {
    const id = this.#ids.get(thing) ?? this.#ids.size + 1
    this.#ids.set(thing, id)
    return id
  }

  #node(thing: object, type: TypeOf<'XDbgBlockGraphNodeType'>, name: string): void {
    this.#nodes.push({ id: this.#id(thing), type, name })
  }

  #edge(parent: object, edge: BlockChild): void {
    this.#edges.push({
      parent: this.#id(parent),
      child: this.#id(edge.node),
      name: edge.name,
      perm: words(edge.perm),
      'shared-perm': words(edge.shared),
    })
  }
}
