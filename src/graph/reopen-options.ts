import { blockError } from '../errors/index.js'
import type { DetectZeroes } from '../io/index.js'
import { defineOptions, type OptionDict, type OptionValue, takeOptions } from '../options/index.js'
import { parseDetectZeroes, parseDiscard } from './modes.js'
import type { BlockNode } from './node.js'

/** Generic options that every node can change. */
const changeableOptions = defineOptions({
  'cache.direct': { type: 'bool' },
  'cache.no-flush': { type: 'bool' },
  'read-only': { type: 'bool' },
  'auto-read-only': { type: 'bool' },
  'detect-zeroes': { type: 'string' },
  discard: { type: 'string' },
})

/** Options that a reopen may leave out whatever the driver. */
const resettable = ['node-name', ...Object.keys(changeableOptions)]

/** What the generic options of a node come to. */
export interface NodeMode {
  readonly direct: boolean
  readonly noFlush: boolean
  readonly readOnly: boolean
  readonly autoReadOnly: boolean
  readonly unmap: boolean
  readonly detectZeroes: DetectZeroes
}

/**
 * Takes the generic options out of `options` and types them. `unmap` says whether discards are passed
 * on if no option does.
 *
 * @throws BlockError EINVAL with QEMU's text
 */
export function takeNodeMode(options: OptionDict, unmap: boolean): NodeMode {
  const given = takeOptions(options, changeableOptions)
  const passes = given.discard === undefined ? unmap : parseDiscard(given.discard)
  const words = given['detect-zeroes']
  return {
    direct: given['cache.direct'] ?? false,
    noFlush: given['cache.no-flush'] ?? false,
    readOnly: given['read-only'] ?? false,
    autoReadOnly: given['auto-read-only'] ?? false,
    unmap: passes,
    detectZeroes: words === undefined ? 'off' : parseDetectZeroes(words, passes),
  }
}

/** Adds to `options` what the node had and the caller does not replace. */
export function joinOldOptions(node: BlockNode, options: OptionDict, old: OptionDict): void {
  if (node.driver?.joinOptions !== undefined) {
    node.driver.joinOptions(options, old)
  } else {
    options.join(old, false)
  }
}

/** Throws EINVAL if an option is missing that cannot go back to its default. */
export function checkResettable(node: BlockNode, options: OptionDict): void {
  for (const key of node.options.keys()) {
    if (
      !options.has(key) &&
      !resettable.includes(key) &&
      node.driver?.mutableOptions?.includes(key) !== true
    ) {
      throw blockError('EINVAL', `Option '${key}' cannot be reset to its default value`)
    }
  }
}

/** Throws EINVAL for an option that nobody took and that differs from what it was. */
export function checkUnchanged(node: BlockNode, left: OptionDict): void {
  for (const key of left.keys()) {
    const value = left.get(key)
    // A child by its name is as it was.
    if (typeof value === 'string' && node.child(key)?.node.name === value) {
      continue
    }
    const old = key === 'node-name' ? node.name : node.options.get(key)
    if (spelled(value) !== spelled(old)) {
      throw blockError('EINVAL', `Cannot change the option '${key}'`)
    }
  }
}

/** Users may give `on` where the node was opened with `true`. */
function spelled(value: OptionValue | undefined): string | null | undefined {
  return typeof value === 'boolean'
    ? value
      ? 'on'
      : 'off'
    : typeof value === 'number'
      ? String(value)
      : value
}
