/** Slots of QEMU's dictionaries. */
const slots = 512

/** The slot of a key in QEMU's dictionaries (the hash that tdb made known). */
function slotOf(key: string): number {
  let value = Math.imul(0x238f13af, key.length) >>> 0
  for (let i = 0; i < key.length; i++) {
    value = (value + (key.charCodeAt(i) << ((i * 5) % 24))) >>> 0
  }
  return ((Math.imul(1103515243, value) + 12345) >>> 0) % slots
}

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
  // In one slot the member added last comes first.
  const entries = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .map(([key, member], index) => ({ key, member, index, slot: slotOf(key) }))
    .sort((a, b) => a.slot - b.slot || b.index - a.index)
  return Object.fromEntries(entries.map(({ key, member }) => [key, inQemuOrder(member)])) as T
}
