/** A step of a simple compressor: some literals, then a match (length 0: none). */
export interface Step {
  readonly literals: Uint8Array
  readonly length: number
  readonly distance: number
}

/** Cuts data into steps, greedily. */
export function steps(
  data: Uint8Array,
  limits: { minLength: number; maxLength: number; maxLiterals: number; maxDistance: number },
): Step[] {
  const result: Step[] = []
  const seen = new Map<number, number>()
  let from = 0
  let at = 0
  while (at < data.length) {
    let length = 0
    let distance = 0
    if (at + 4 <= data.length) {
      const key = ((data[at] as number) << 16) | ((data[at + 1] as number) << 8) | (data[at + 2] as number)
      const last = seen.get(key)
      seen.set(key, at)
      if (last !== undefined && at - last <= limits.maxDistance) {
        distance = at - last
        while (
          length < limits.maxLength &&
          at + length < data.length &&
          data[at + length] === data[last + length]
        ) {
          length++
        }
      }
    }
    if (length >= limits.minLength) {
      result.push({ literals: data.subarray(from, at), length, distance })
      at += length
      from = at
    } else {
      at++
      if (at - from === limits.maxLiterals) {
        result.push({ literals: data.subarray(from, at), length: 0, distance: 0 })
        from = at
      }
    }
  }
  if (from < data.length) {
    result.push({ literals: data.subarray(from), length: 0, distance: 0 })
  }
  return result
}
