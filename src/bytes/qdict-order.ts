/** Buckets of QEMU's dictionaries. */
const buckets = 512

/** The hash of QEMU's dictionaries (the one of tdb), over the UTF-8 bytes of the key, modulo the buckets. */
function bucketOf(key: string): number {
  const bytes = new TextEncoder().encode(key)
  let value = Math.imul(0x238f13af, bytes.length)
  for (let i = 0; i < bytes.length; i++) {
    value = (value + ((bytes[i] as number) << ((i * 5) % 24))) | 0
  }
  return ((Math.imul(1103515243, value) + 12345) >>> 0) % buckets
}

/**
 * The order in which QEMU visits the keys of a dictionary, and so prints JSON objects: by bucket of
 * its hash table, and within a bucket the key added last comes first. `keys` are in the order in
 * which they were added.
 */
export function qdictOrder(keys: readonly string[]): string[] {
  return keys
    .map((key, index) => ({ key, index, bucket: bucketOf(key) }))
    .sort((a, b) => a.bucket - b.bucket || b.index - a.index)
    .map(({ key }) => key)
}
