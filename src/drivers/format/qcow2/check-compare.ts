import type { CheckFix, CheckResult } from '../../../graph/index.js'
import { countPageClusters, type ReferenceCounts, type StoredRefcounts } from './check-counts.js'
import { errnoText } from './check-repair.js'

/** Compares counted references with stored refcounts, and corrects these. */
export class CountComparison {
  readonly #counts: ReferenceCounts
  readonly #stored: StoredRefcounts
  readonly #breathe: () => Promise<void>
  /** A cluster in use has no refcount, so that it may have no place for one. */
  needsRebuild = false
  /** Runs of clusters whose refcount has been set to 0: first cluster, count. */
  readonly freed: [number, number][] = []

  constructor(counts: ReferenceCounts, stored: StoredRefcounts, breathe: () => Promise<void>) {
    this.#counts = counts
    this.#stored = stored
    this.#breathe = breathe
  }

  /** Returns the last cluster that is in use. Corrections wait in `stored` until it is flushed. */
  async run(fix: CheckFix, result: CheckResult): Promise<number> {
    const counts = this.#counts
    let last = 0
    for (let cluster = 0; cluster < counts.clusters; cluster++) {
      if (cluster % countPageClusters === 0) {
        await this.#breathe()
        const skipped = this.#emptyClusters(cluster)
        if (skipped > 0) {
          cluster += skipped - 1
          continue
        }
      }
      const same = this.#sameFrom(cluster)
      if (same > 0) {
        last = this.#lastUsed(cluster, same) ?? last
        cluster += same - 1
        continue
      }
      try {
        let refcount = this.#stored.get(cluster)
        if (refcount instanceof Promise) {
          refcount = await refcount
        }
        const references = counts.get(cluster)
        if (refcount > 0 || references > 0) {
          last = cluster
        }
        if (refcount === references) {
          continue
        }
        const missing = refcount < references
        let fixes = false
        if (refcount === 0) {
          this.needsRebuild = true
        } else {
          fixes = missing ? fix.errors : fix.leaks
        }
        const word = fixes ? 'Repairing' : missing ? 'ERROR' : 'Leaked'
        result.messages.push(`${word} cluster ${cluster} refcount=${refcount} reference=${references}`)
        if (fixes) {
          this.#correct(cluster, references)
          result[missing ? 'corruptionsFixed' : 'leaksFixed']++
        } else {
          result[missing ? 'corruptions' : 'leaks']++
        }
      } catch (error) {
        result.messages.push(`Can't get refcount for cluster ${cluster}: ${errnoText(error)}`)
        result.checkErrors++
      }
    }
    return last
  }

  /** How many clusters from `cluster` on, in one page and block at hand, have the right refcount. */
  #sameFrom(cluster: number): number {
    const page = this.#counts.page(cluster)
    if (page === undefined) {
      return 0
    }
    const same = this.#stored.equalRun(cluster, page, cluster % countPageClusters)
    return Math.min(same, this.#counts.clusters - cluster)
  }

  /** The last of `count` clusters in one page that is referred to. */
  #lastUsed(first: number, count: number): number | undefined {
    for (let cluster = first + count - 1; cluster >= first; cluster--) {
      if (this.#counts.get(cluster) > 0) {
        return cluster
      }
    }
    return undefined
  }

  #correct(cluster: number, references: number): void {
    this.#stored.set(cluster, references)
    if (references === 0) {
      const run = this.freed.at(-1)
      if (run !== undefined && run[0] + run[1] === cluster) {
        run[1]++
      } else {
        this.freed.push([cluster, 1])
      }
    }
  }

  /** How many clusters from `start`, the first of a page, certainly have neither refcount nor reference. */
  #emptyClusters(start: number): number {
    const counts = this.#counts
    const stored = this.#stored
    const blockClusters = 2 ** stored.blockBits
    const step = Math.max(countPageClusters, blockClusters)
    if (start % step !== 0) {
      return 0
    }
    let cluster = start
    for (; cluster < counts.clusters; cluster += step) {
      for (let page = cluster; page < cluster + step; page += countPageClusters) {
        if (!counts.isPageEmpty(page)) {
          return cluster - start
        }
      }
      for (let block = cluster; block < cluster + step; block += blockClusters) {
        if (!stored.isBlockAbsent(block)) {
          return cluster - start
        }
      }
    }
    return cluster - start
  }
}
