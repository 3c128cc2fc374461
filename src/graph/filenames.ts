import { compactJson, OptionDict, type OptionTree } from '../options/index.js'
import { isProtocolLevel } from './driver.js'
import type { BlockNode } from './node.js'

/** Longest `json:` name shown, characters (PATH_MAX). */
const maxNameLength = 4096

/** Whether the node's backing file is not the one its image would lead to. */
export function backingOverridden(node: BlockNode): boolean {
  if (node.flags.noIo) {
    return false
  }
  const backing = node.backing
  return backing === undefined ? node.autoBackingFile !== '' : node.autoBackingFile !== backing.filename
}

/** Copies the options that change what the guest sees; whether there were any (seed row 118, today's rule). */
function strongOptions(node: BlockNode, into: OptionDict): boolean {
  let found = false
  for (const name of node.driver?.strongOptions ?? []) {
    for (const [key, value] of node.options.entries()) {
      if (key === name || (name.endsWith('.') && key.startsWith(name))) {
        into.set(key, value)
        found = true
      }
    }
  }
  const filename = node.options.get('filename')
  if (filename !== undefined) {
    into.set('filename', filename)
  }
  if (node.driver !== undefined) {
    into.set('driver', node.driver.name)
  }
  return found
}

/** As {@link fullOpenOptions}, with a level for each child; a node's own options keep their dots, as in QEMU's names. */
function fullOpenTree(node: BlockNode): OptionTree {
  if (node.implicit && node.primary !== undefined) {
    return fullOpenTree(node.primary)
  }
  const own = new OptionDict()
  strongOptions(node, own)
  const tree: Record<string, OptionTree[string]> = Object.fromEntries(own.entries())
  const overridden = backingOverridden(node)
  for (const child of node.children) {
    if (child.name === 'backing' && !overridden) {
      continue
    }
    // Children called `children.0`, `children.1`, … are a list.
    const list = /^(.*)\.\d+$/.exec(child.name)?.[1]
    const options = fullOpenTree(child.node)
    if (list === undefined) {
      tree[child.name] = options
    } else {
      const before = tree[list]
      tree[list] = [...(Array.isArray(before) ? before : []), options]
    }
  }
  if (overridden && node.backing === undefined) {
    tree.backing = null
  }
  return tree
}

/** Everything needed to open exactly this node again, children included. */
export function fullOpenOptions(node: BlockNode): OptionDict {
  return OptionDict.fromTree(fullOpenTree(node))
}

/**
 * Recomputes the names of `node` and of everything below it (seed rows 118-121): a plain name if
 * opening that name leads to exactly this graph, else `json:` with all it takes.
 */
export function refreshFilename(node: BlockNode): void {
  if (node.driver === undefined) {
    return
  }
  for (const child of node.children) {
    refreshFilename(child.node)
  }
  if (node.implicit && node.primary !== undefined) {
    node.exactFilename = node.primary.exactFilename
    node.filename = node.primary.filename
    return
  }
  const options = new OptionDict()
  const strong = strongOptions(node, options)
  const needsJson = strong || backingOverridden(node)
  const hook = node.state?.exactFilename
  const primary = node.primary
  if (hook !== undefined) {
    node.exactFilename = hook.call(node.state) ?? ''
  } else if (primary !== undefined) {
    const below = primary.driver
    const usable =
      below !== undefined && isProtocolLevel(below) && node.driver.kind !== 'filter' && !needsJson
    node.exactFilename = usable ? primary.exactFilename : ''
  }
  if (node.exactFilename !== '') {
    node.filename = node.exactFilename
    return
  }
  const name = `json:${compactJson(fullOpenTree(node))}`
  node.filename = name.length >= maxNameLength ? `${name.slice(0, maxNameLength - 4)}...` : name
}
