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
        const used = await this.#usedIfEqual(cluster)
        if (used >= 0) {
          last = used > 0 ? cluster + used - 1 : last
          cluster += countPageClusters - 1
          continue
        }
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

  /** {@link StoredRefcounts.usedIfEqual} of the page that begins at `cluster`; -1 if it cannot be told. */
  async #usedIfEqual(cluster: number): Promise<number> {
    const page = this.#counts.page(cluster)
    if (page === undefined || cluster + countPageClusters > this.#counts.clusters) {
      return -1
    }
    try {
      await this.#stored.get(cluster)
    } catch {
      // Reported for each cluster.
      return -1
    }
    return this.#stored.usedIfEqual(cluster, page)
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
