import { blockError } from '../errors/index.js'
import type { BlockChild } from './child.js'
import { Perm, permNames, Role } from './flags.js'
import type { BlockNode } from './node.js'

/** The names of permissions as they stand in messages. */
export function permissionNames(mask: number): string {
  return permNames
    .filter(([bit]) => (mask & bit) !== 0)
    .map(([, name]) => name)
    .join(', ')
}

/** What the parents of `node` use together, and what all of them let others use. */
export function cumulativePermissions(node: BlockNode): { perm: number; shared: number } {
  let perm = 0
  let shared: number = Perm.all
  for (const edge of node.parents) {
    perm |= edge.perm
    shared &= edge.shared
  }
  return { perm, shared }
}

/** Permissions a node needs on a child by its role, given what its own parents need. */
export function defaultChildPermissions(
  node: BlockNode,
  child: BlockChild,
  parentPerm: number,
  parentShared: number,
): { perm: number; shared: number } {
  if ((child.role & Role.cow) !== 0) {
    // Backing files are only read; whoever tolerates changing data may see them change and grow.
    const perm = parentPerm & Perm.consistentRead
    const writable = (parentShared & Perm.write) !== 0 || node.flags.inactive ? Perm.write | Perm.resize : 0
    return { perm, shared: writable | Perm.consistentRead | Perm.writeUnchanged }
  }
  if ((child.role & Role.filtered) !== 0) {
    return { perm: parentPerm, shared: parentShared }
  }
  let perm = parentPerm
  let shared = parentShared
  if ((child.role & Role.metadata) !== 0) {
    // A format driver may touch metadata even when the guest does not write.
    if (!node.readOnly) {
      perm |= Perm.write | Perm.resize
    }
    if (!node.flags.noIo) {
      perm |= Perm.consistentRead
    }
    shared &= ~(Perm.write | Perm.resize)
  }
  if ((child.role & Role.data) !== 0) {
    if (!node.flags.noIo) {
      perm |= Perm.consistentRead
    }
    shared &= ~Perm.resize
    if ((perm & Perm.writeUnchanged) !== 0) {
      perm |= Perm.write
    }
    if ((perm & Perm.write) !== 0) {
      perm |= Perm.resize
    }
  }
  if (node.flags.inactive) {
    // The process that has the image writes to it.
    shared |= Perm.write | Perm.resize
  }
  return { perm, shared }
}

function checkParents(node: BlockNode): void {
  for (const a of node.parents) {
    for (const b of node.parents) {
      const conflict = a === b ? 0 : b.perm & ~a.shared
      if (conflict !== 0) {
        throw blockError(
          'EPERM',
          `Permission conflict on node '${node.name}': permissions '${permissionNames(conflict)}' are both required by ` +
            `${b.parent.description} (uses node '${node.name}' as '${b.name}' child) and unshared by ` +
            `${a.parent.description} (uses node '${node.name}' as '${a.name}' child).`,
        )
      }
    }
  }
}

/** Nodes reachable from `roots`, parents before children. */
function topological(roots: readonly BlockNode[]): BlockNode[] {
  const order: BlockNode[] = []
  const seen = new Set<BlockNode>()
  const visit = (node: BlockNode): void => {
    if (seen.has(node)) {
      return
    }
    seen.add(node)
    for (const child of node.children) {
      visit(child.node)
    }
    order.push(node)
  }
  for (const root of roots) {
    visit(root)
  }
  return order.reverse()
}

/**
 * Works out the permissions of `roots` and everything below from what their parents ask for, checks
 * them for conflicts and has the drivers take or drop their locks. Either all of it takes effect,
 * or it throws and nothing has changed.
 */
export async function refreshPermissions(roots: readonly BlockNode[]): Promise<void> {
  const [first] = roots
  if (first !== undefined) {
    await first.layer.graphLock.run(() => settlePermissions(roots))
  }
}

/**
 * {@link refreshPermissions} for those who hold the layer's graph lock: edges they have changed
 * meanwhile are seen by nobody else's refresh before this one has taken effect or failed.
 */
export async function settlePermissions(roots: readonly BlockNode[]): Promise<void> {
  const order = topological(roots)
  const undo: (() => void)[] = []
  const prepared: BlockNode[] = []
  const results = new Map<BlockNode, { perm: number; shared: number }>()
  try {
    for (const node of order) {
      checkParents(node)
      const { perm, shared } = cumulativePermissions(node)
      results.set(node, { perm, shared })
      if (node.driver === undefined) {
        continue
      }
      if ((perm & (Perm.write | Perm.writeUnchanged)) !== 0 && node.readOnly) {
        throw blockError('EPERM', 'Block node is read-only')
      }
      // A write to the last block would have to go past the end.
      if (
        (perm & (Perm.write | Perm.resize)) === Perm.write &&
        node.length % node.limits.requestAlignment !== 0
      ) {
        throw blockError(
          'EPERM',
          "Cannot get 'write' permission without 'resize': Image size is not a multiple of request alignment",
        )
      }
      for (const child of node.children) {
        const old = { perm: child.perm, shared: child.shared }
        const wanted =
          node.state?.childPermissions?.(child, perm, shared) ??
          defaultChildPermissions(node, child, perm, shared)
        child.perm = wanted.perm
        child.shared = wanted.shared
        undo.push(() => {
          child.perm = old.perm
          child.shared = old.shared
        })
      }
      if (node.state?.preparePermissions !== undefined) {
        prepared.push(node)
        await node.state.preparePermissions(perm, shared)
      }
    }
  } catch (error) {
    for (const node of prepared.reverse()) {
      node.state?.abortPermissions?.()
    }
    for (const restore of undo.reverse()) {
      restore()
    }
    throw error
  }
  for (const node of order) {
    const result = results.get(node)
    if (result !== undefined) {
      node.state?.commitPermissions?.(result.perm, result.shared)
    }
  }
}
