import { compactJson, OptionDict, unflatten } from '../options/index.js'
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

/** Everything needed to open exactly this node again, children included. */
export function fullOpenOptions(node: BlockNode): OptionDict {
  const options = new OptionDict()
  strongOptions(node, options)
  const overridden = backingOverridden(node)
  for (const child of node.children) {
    if (child.name === 'backing' && !overridden) {
      continue
    }
    for (const [key, value] of fullOpenOptions(child.node).entries()) {
      options.set(`${child.name}.${key}`, value)
    }
  }
  if (overridden && node.backing === undefined) {
    options.set('backing', null)
  }
  return options
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
  const options = new OptionDict()
  const strong = strongOptions(node, options)
  const needsJson = strong || backingOverridden(node)
  const hook = node.state?.exactFilename
  const primary = node.primary
  if (hook !== undefined) {
    node.exactFilename = hook.call(node.state) ?? ''
  } else if (primary !== undefined) {
    const usable = primary.isProtocol && node.driver.kind !== 'filter' && !needsJson
    node.exactFilename = usable ? primary.exactFilename : ''
  }
  if (node.exactFilename !== '') {
    node.filename = node.exactFilename
    return
  }
  const name = `json:${compactJson(unflatten(fullOpenOptions(node)))}`
  node.filename = name.length >= maxNameLength ? `${name.slice(0, maxNameLength - 4)}...` : name
}
