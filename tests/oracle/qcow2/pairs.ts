/** Columns of a table of cases with the values each can have. */
export type Columns<Row> = { readonly [Key in keyof Row]: readonly Row[Key][] }

/**
 * Rows in which every two values of different columns that can stand together do so at least once:
 * of some candidates that begin with a missing pair, the one that covers most is taken.
 *
 * @param allowed whether a complete row can exist
 * @param below a repeatable choice of numbers below its argument
 */
export function pairwise<Row extends object>(
  columns: Columns<Row>,
  allowed: (row: Row) => boolean,
  below: (limit: number) => number,
): Row[] {
  const keys = Object.keys(columns) as (keyof Row & string)[]
  const value = (key: keyof Row & string, index: number) => columns[key][index] as Row[typeof key]
  const make = (indices: readonly number[]): Row =>
    Object.fromEntries(keys.map((key, i) => [key, value(key, indices[i] ?? 0)])) as Row
  const pairsOf = (indices: readonly number[]): string[] =>
    keys.flatMap((_, i) =>
      keys.slice(i + 1).map((_, j) => `${i}=${indices[i]},${i + 1 + j}=${indices[i + 1 + j]}`),
    )
  const missing = new Map<string, readonly [number, number, number, number]>()
  keys.forEach((a, i) => {
    for (let j = i + 1; j < keys.length; j++) {
      for (let x = 0; x < columns[a].length; x++) {
        for (let y = 0; y < columns[keys[j] as keyof Row].length; y++) {
          missing.set(`${i}=${x},${j}=${y}`, [i, x, j, y])
        }
      }
    }
  })
  const random = () => keys.map((key) => below(columns[key].length))
  const rows: Row[] = []
  for (const [pair, [i, x, j, y]] of missing) {
    if (!missing.has(pair)) {
      continue
    }
    let best: { readonly indices: number[]; readonly covers: string[] } | undefined
    for (let attempt = 0; attempt < 400; attempt++) {
      const indices = random()
      indices[i] = x
      indices[j] = y
      if (!allowed(make(indices))) {
        continue
      }
      const covers = pairsOf(indices).filter((one) => missing.has(one))
      if (best === undefined || covers.length > best.covers.length) {
        best = { indices, covers }
      }
    }
    if (best === undefined) {
      // The two exclude each other.
      missing.delete(pair)
      continue
    }
    rows.push(make(best.indices))
    for (const covered of best.covers) {
      missing.delete(covered)
    }
  }
  return rows
}
