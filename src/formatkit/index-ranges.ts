/**
 * A set of non-negative integers (cluster indices, say) kept as sorted disjoint ranges. Made for sets
 * that consist of few runs.
 */
export class IndexRanges {
  /** Start, end (exclusive), start, end, … ascending. */
  #edges: number[] = []

  /** Number of runs. */
  get runs(): number {
    return this.#edges.length / 2
  }

  get isEmpty(): boolean {
    return this.#edges.length === 0
  }

  /** The largest member plus 1; 0 for the empty set. */
  get end(): number {
    return this.#edges.at(-1) ?? 0
  }

  /** Index of the first edge that is greater than `value`. */
  #above(value: number): number {
    let low = 0
    let high = this.#edges.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#edges[middle] ?? 0) > value) {
        high = middle
      } else {
        low = middle + 1
      }
    }
    return low
  }

  has(index: number): boolean {
    return this.#edges.length !== 0 && this.#above(index) % 2 === 1
  }

  /** Whether a member lies in `[start, end)`. */
  overlaps(start: number, end: number): boolean {
    if (this.#edges.length === 0) {
      return false
    }
    const at = this.#above(start)
    return at % 2 === 1 || (this.#edges[at] ?? Number.POSITIVE_INFINITY) < end
  }

  /** Replaces the members by `indices`, in any order. */
  fill(indices: number[]): void {
    indices.sort((a, b) => a - b)
    const edges: number[] = []
    for (const index of indices) {
      if (edges.at(-1) === index) {
        edges[edges.length - 1] = index + 1
      } else if (edges.length === 0 || (edges.at(-1) ?? 0) < index) {
        edges.push(index, index + 1)
      }
    }
    this.#edges = edges
  }

  /** Adds `[start, end)`. */
  add(start: number, end: number): void {
    this.#replace(start, end, true)
  }

  /** Removes `[start, end)`. */
  remove(start: number, end: number): void {
    this.#replace(start, end, false)
  }

  #replace(start: number, end: number, present: boolean): void {
    if (start >= end) {
      return
    }
    // Edges within the range disappear, also those that merely touch it; its own ends are edges only
    // if what lies beyond differs.
    const from = this.#above(start - 1)
    const to = this.#above(end)
    const edges: number[] = []
    if ((from % 2 === 1) !== present) {
      edges.push(start)
    }
    if ((to % 2 === 1) !== present) {
      edges.push(end)
    }
    this.#edges.splice(from, to - from, ...edges)
  }

  clear(): void {
    this.#edges = []
  }

  /** Calls `visit` for each run, in ascending order. The set must not change meanwhile. */
  forEach(visit: (start: number, end: number) => void): void {
    for (let i = 0; i < this.#edges.length; i += 2) {
      visit(this.#edges[i] ?? 0, this.#edges[i + 1] ?? 0)
    }
  }
}
