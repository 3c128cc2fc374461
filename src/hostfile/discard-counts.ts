import type { RangeResult } from '../io/index.js'
import type { OptionTree } from '../options/index.js'
import type { Wait } from '../sched/index.js'

/** What came of the discards of a file, for `query-blockstats`. */
export class DiscardCounts {
  #done = 0
  #failed = 0
  #bytes = 0

  /** Counts a request when it is over; returns `wait`. */
  note(wait: Wait, bytes: number, out: RangeResult): Wait {
    if (wait === undefined) {
      this.#count(bytes, out)
      return undefined
    }
    return wait.then(
      () => this.#count(bytes, out),
      (error: unknown) => {
        this.#failed++
        throw error
      },
    )
  }

  #count(bytes: number, out: RangeResult): void {
    if (out.bytes > 0) {
      this.#done++
      this.#bytes += bytes
    } else {
      this.#failed++
    }
  }

  /** Members of QAPI's `BlockStatsSpecificFile`. */
  stats(): OptionTree {
    return {
      'discard-nb-ok': this.#done,
      'discard-nb-failed': this.#failed,
      'discard-bytes-ok': this.#bytes,
    }
  }
}
