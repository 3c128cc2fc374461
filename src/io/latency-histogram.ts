import { ioError } from '../errors/index.js'

/** Counts latencies by range. Bin 0 is below the first boundary, the last bin from the last boundary on. */
export class LatencyHistogram {
  /** Nanoseconds, ascending. */
  readonly boundaries: readonly number[]
  readonly bins: number[]

  /** @throws BlockError EINVAL unless there is a boundary, and all are positive and ascending */
  constructor(boundaries: readonly number[]) {
    let previous = 0
    for (const boundary of boundaries) {
      if (!(boundary > previous)) {
        throw ioError('EINVAL')
      }
      previous = boundary
    }
    if (boundaries.length === 0) {
      throw ioError('EINVAL')
    }
    this.boundaries = [...boundaries]
    this.bins = new Array<number>(boundaries.length + 1).fill(0)
  }

  account(latency: number): void {
    const { boundaries } = this
    let low = 0
    let high = boundaries.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (latency < (boundaries[middle] as number)) {
        high = middle
      } else {
        low = middle + 1
      }
    }
    this.bins[low] = (this.bins[low] as number) + 1
  }
}
