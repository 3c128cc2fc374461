import { blockError } from '../errors/index.js'
import type { BlockLayer } from './layer.js'
import type { BlockNode } from './node.js'

/** Longest node name, characters. */
const maxNameLength = 31

/** Whether `id` is a name users may give: a letter, then letters, digits, `-`, `.`, `_`. */
export function isWellFormedId(id: string): boolean {
  return /^[A-Za-z][A-Za-z0-9\-._]*$/.test(id)
}

/** The node names of a layer (seed rows 83-85). */
export class NodeNames {
  readonly #layer: BlockLayer
  readonly #byName = new Map<string, BlockNode>()
  #generated = 0

  constructor(layer: BlockLayer) {
    this.#layer = layer
  }

  find(name: string): BlockNode | undefined {
    return this.#byName.get(name)
  }

  /** Nodes in creation order. */
  *nodes(): IterableIterator<BlockNode> {
    yield* this.#byName.values()
  }

  /** Named nodes, the newest first. */
  list(): BlockNode[] {
    return [...this.#byName.values()].reverse()
  }

  /** Gives `node` the name asked for, or a generated `#block<N><2 random digits>`. */
  assign(node: BlockNode, wanted: string | undefined): void {
    let name = wanted
    if (name === undefined) {
      // So that nobody comes to rely on a generated name; it keeps no secret.
      const digits = Math.floor(Math.random() * 100)
      name = `#block${this.#generated++}${String(digits).padStart(2, '0')}`
    } else if (!isWellFormedId(name)) {
      throw blockError('EINVAL', `Invalid node-name: '${name}'`)
    }
    if (this.#layer.findBackend(name) !== undefined) {
      throw blockError('EINVAL', `node-name=${name} is conflicting with a device id`)
    }
    if (this.#byName.has(name)) {
      throw blockError('EINVAL', `Duplicate nodes with node-name='${name}'`)
    }
    if (name.length > maxNameLength) {
      throw blockError('EINVAL', 'Node name too long')
    }
    node.name = name
    this.#byName.set(name, node)
  }

  release(node: BlockNode): void {
    if (this.#byName.get(node.name) === node) {
      this.#byName.delete(node.name)
    }
  }
}
