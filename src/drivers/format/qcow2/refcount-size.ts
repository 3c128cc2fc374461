/**
 * Refcount blocks and refcount table clusters needed to count `clusters` other clusters and
 * themselves.
 *
 * @param tableEntries refcount table entries per cluster
 * @param blockEntries refcounts per block
 * @param generous leaves room for half as many table clusters again
 */
export function refcountMetadata(
  clusters: number,
  tableEntries: number,
  blockEntries: number,
  generous: boolean,
): { blocks: number; table: number } {
  let counted = clusters
  let roomLeft = generous
  let blocks = 0
  let table = 0
  for (let last = -1; ; ) {
    blocks = Math.ceil((counted + table + blocks) / blockEntries)
    table = Math.ceil(blocks / tableEntries)
    const total = counted + blocks + table
    if (total === last) {
      if (!roomLeft) {
        return { blocks, table }
      }
      roomLeft = false
      counted += Math.ceil(table / 2)
      last = -1
      continue
    }
    last = total
  }
}
