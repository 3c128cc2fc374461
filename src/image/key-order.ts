import { qdictOrder } from '../bytes/index.js'

/**
 * `value` with the members of all objects in the order in which QEMU's JSON output has them, which is
 * that of its hash table; members that are `undefined` are left out.
 */
export function inQemuOrder<T>(value: T): T {
  if (Array.isArray(value)) {
    return value.map(inQemuOrder) as T
  }
  if (typeof value !== 'object' || value === null) {
    return value
  }
  const members = value as Record<string, unknown>
  const keys = qdictOrder(Object.keys(members).filter((key) => members[key] !== undefined))
  return Object.fromEntries(keys.map((key) => [key, inQemuOrder(members[key])])) as T
}
