import { blockError } from '../errors/index.js'
import type { BlockChild } from './child.js'
import { Role } from './flags.js'
import type { BlockNode } from './node.js'

/** The edges from `top` down to `base` (undefined: to the end): backing files, and what filters filter. */
function edgesDown(top: BlockNode, base: BlockNode | undefined): BlockChild[] {
  const edges: BlockChild[] = []
  for (let at: BlockNode | undefined = top; at !== undefined && at !== base; ) {
    const edge: BlockChild | undefined =
      at.children.find((child) => (child.role & Role.cow) !== 0) ??
      (at.isFilter ? at.children.find((child) => (child.role & Role.filtered) !== 0) : undefined)
    if (edge !== undefined) {
      edges.push(edge)
    }
    at = edge?.node
  }
  return edges
}

/** Throws EPERM if a link between `top` and `base` may not be changed. */
export function checkChainNotFrozen(top: BlockNode, base: BlockNode | undefined): void {
  const edge = edgesDown(top, base).find(({ frozen }) => frozen)
  if (edge !== undefined) {
    throw blockError(
      'EPERM',
      `Cannot change '${edge.name}' link from '${edge.parent.parentNode?.name ?? ''}' to '${edge.node.name}'`,
    )
  }
}

/**
 * Forbids changing any link between `top` and `base` until {@link unfreezeChain}: somebody relies on
 * the chain being what it is.
 *
 * @throws BlockError EPERM if one is frozen already; nothing is frozen then
 */
export function freezeChain(top: BlockNode, base: BlockNode | undefined): void {
  checkChainNotFrozen(top, base)
  for (const edge of edgesDown(top, base)) {
    edge.frozen = true
  }
}

/** Takes {@link freezeChain} back. */
export function unfreezeChain(top: BlockNode, base: BlockNode | undefined): void {
  for (const edge of edgesDown(top, base)) {
    edge.frozen = false
  }
}
