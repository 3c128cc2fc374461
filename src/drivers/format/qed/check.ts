import { readU64LE, writeU64LE } from '../../../bytes/index.js'
import { blockError, isBlockError } from '../../../errors/index.js'
import { readPadded } from '../../../formatkit/index.js'
import type { CheckResult } from '../../../graph/index.js'
import { isClusterPlace, isTablePlace } from './header.js'
import type { QedTables } from './tables.js'

/** Most clusters of a file: their bits take 128 MiB. */
const maxClusters = 2 ** 30
/** Bytes of a table looked at together. */
const pieceBytes = 1 << 18

/**
 * Looks at every table for places that cannot be and for clusters in use more than once, and counts what
 * nothing refers to. `fix` takes out places that cannot be; the rest cannot be repaired, as in QEMU. The
 * mark of an image that was not closed goes when nothing is left. Mutex held, nothing in flight if `fix`.
 */
export async function checkImage(tables: QedTables, fix: boolean): Promise<CheckResult> {
  return await new Check(tables, fix).run()
}

class Check {
  readonly #tables: QedTables
  readonly #fix: boolean
  /** A bit for each cluster that something refers to. */
  readonly #used: Uint8Array
  #usedClusters = 0
  readonly #result: CheckResult

  constructor(tables: QedTables, fix: boolean) {
    this.#tables = tables
    this.#fix = fix
    const { header, clusterSize, end } = tables
    const clusters = end / clusterSize
    if (clusters > maxClusters) {
      throw blockError('EFBIG', `Image has ${clusters} clusters, at most ${maxClusters} can be checked`)
    }
    this.#used = new Uint8Array(Math.ceil(clusters / 8))
    this.#result = {
      corruptions: 0,
      leaks: 0,
      corruptionsFixed: 0,
      leaksFixed: 0,
      checkErrors: 0,
      imageEndOffset: 0,
      totalClusters: Math.ceil(header.size / header.clusterSize),
      allocatedClusters: 0,
      fragmentedClusters: 0,
      compressedClusters: 0,
      messages: [],
    }
  }

  async run(): Promise<CheckResult> {
    const tables = this.#tables
    const { header, clusterSize, file } = tables
    // What follows reads the file.
    await tables.settle()
    await this.#checkFirstLevel()
    const result = this.#result
    if (result.checkErrors === 0) {
      const clusters = tables.end / clusterSize - header.headerEnd / clusterSize
      result.leaks = Math.max(0, clusters - this.#usedClusters)
      if (this.#fix) {
        tables.checked()
        if (result.corruptions === 0 && header.needsCheck) {
          await tables.unmark()
          await file.node.flush()
        }
      }
    }
    return result
  }

  /** Counts `count` clusters from `offset` on as used. False, and a corruption for each, if some were already. */
  #use(offset: number, count: number): boolean {
    const first = offset / this.#tables.clusterSize
    let twice = 0
    for (let cluster = first; cluster < first + count; cluster++) {
      const at = Math.floor(cluster / 8)
      const bits = this.#used[at] ?? 0
      const bit = 1 << (cluster % 8)
      if ((bits & bit) !== 0) {
        twice++
      } else {
        this.#usedClusters++
        this.#used[at] = bits | bit
      }
    }
    this.#result.corruptions += twice
    return twice === 0
  }

  #countInvalid(): void {
    if (this.#fix) {
      this.#result.corruptionsFixed++
    } else {
      this.#result.corruptions++
    }
  }

  async #checkFirstLevel(): Promise<void> {
    const { header, end } = this.#tables
    this.#use(header.l1Offset, header.tableClusters)
    await this.#forEachPiece(header.l1Offset, async (place, bytes) => {
      let changed = false
      for (let at = 0; at < bytes.length; at += 8) {
        const table = readU64LE(bytes, at)
        if (table === 0) {
          continue
        }
        if (!isTablePlace(header, table, end)) {
          this.#countInvalid()
          if (this.#fix) {
            writeU64LE(bytes, at, 0)
            this.#tables.forgetTable((place - header.l1Offset + at) / 8)
            changed = true
          }
          continue
        }
        if (this.#use(table, header.tableClusters)) {
          await this.#checkSecondLevel(table)
        }
      }
      return changed
    })
  }

  async #checkSecondLevel(table: number): Promise<void> {
    const { header, end, clusterSize } = this.#tables
    const result = this.#result
    let last = 0
    await this.#forEachPiece(table, async (_place, bytes) => {
      let changed = false
      for (let at = 0; at < bytes.length; at += 8) {
        const cluster = readU64LE(bytes, at)
        if (cluster <= 1) {
          continue
        }
        result.allocatedClusters++
        // Numbers that are no places at all are infinite.
        if (last !== 0 && (last + clusterSize !== cluster || cluster === Number.POSITIVE_INFINITY)) {
          result.fragmentedClusters++
        }
        last = cluster
        if (isClusterPlace(header, cluster, end)) {
          this.#use(cluster, 1)
          continue
        }
        this.#countInvalid()
        if (this.#fix) {
          writeU64LE(bytes, at, 0)
          changed = true
        }
      }
      return await Promise.resolve(changed)
    })
  }

  /** Calls `visit` for the parts of the table at `table`; those it has changed are written. */
  async #forEachPiece(
    table: number,
    visit: (place: number, bytes: Uint8Array) => Promise<boolean>,
  ): Promise<void> {
    const { header, file, l2 } = this.#tables
    const piece = Math.min(pieceBytes, header.tableBytes)
    for (let place = table; place < table + header.tableBytes; place += piece) {
      const bytes = new Uint8Array(piece)
      try {
        const wait = readPadded(file.node, place, bytes)
        if (wait !== undefined) {
          await wait
        }
        if (await visit(place, bytes)) {
          await file.node.write(place, bytes.length, bytes, 0, 0)
          l2.clear()
        }
      } catch (error) {
        if (!isBlockError(error)) {
          throw error
        }
        this.#result.checkErrors++
        return
      }
    }
  }
}
