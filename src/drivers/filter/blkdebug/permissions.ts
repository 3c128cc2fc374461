import { blockError } from '../../../errors/index.js'
import { Perm } from '../../../graph/index.js'
import type { OptionDict } from '../../../options/index.js'

const permissionNames: Readonly<Record<string, number>> = {
  'consistent-read': Perm.consistentRead,
  write: Perm.write,
  'write-unchanged': Perm.writeUnchanged,
  resize: Perm.resize,
}

/**
 * Takes the list `key.0`, `key.1`, … of permission names out of `options`; the result is `Perm` bits.
 *
 * @throws BlockError EINVAL
 */
export function takePermissionList(options: OptionDict, key: string): number {
  const sub = options.takeSubtree(`${key}.`)
  const keys = sub.keys()
  const indices = keys.filter((name) => /^\d+(\.|$)/.test(name)).map((name) => Number.parseInt(name, 10))
  if (indices.length === 0 && keys.length > 0) {
    throw blockError('EINVAL', "Invalid parameter type for '<anonymous>', expected: array")
  }
  if (indices.length < keys.length) {
    throw blockError('EINVAL', 'Cannot mix list and non-list keys')
  }
  const largest = Math.max(-1, ...indices)
  if (largest !== new Set(indices).size - 1) {
    const seen = `saw ${new Set(indices).size} elements but ${largest} largest index`
    throw blockError('EINVAL', `List indices are not contiguous, ${seen}`)
  }
  let bits = 0
  for (let index = 0; index <= largest; index++) {
    const name = sub.get(String(index))
    if (typeof name !== 'string') {
      throw blockError('EINVAL', "Invalid parameter type for 'null', expected: string")
    }
    const permission = Object.hasOwn(permissionNames, name) ? permissionNames[name] : undefined
    if (permission === undefined) {
      throw blockError('EINVAL', `Parameter 'null' does not accept value '${name}'`)
    }
    bits |= permission
  }
  return bits
}
