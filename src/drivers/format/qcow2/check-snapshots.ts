import { codeOf, ioError, isBlockError } from '../../../errors/index.js'
import type { CheckResult } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import { errnoText, type RepairMode, writeRepairThrough } from './check-repair.js'
import { maxSnapshotExtraBytes, maxSnapshots, snapshotHeaderBytes } from './constants.js'
import type { Qcow2Header } from './header.js'
import { readSnapshotTable, type SnapshotTable } from './snapshot-table.js'

/** Byte offset of the field "snapshot count" in the header. */
const headerCountField = 60

/** The check of the snapshot table: what an open for check has left out. */
export class SnapshotCheck {
  readonly #header: Qcow2Header
  readonly #file: IoNode
  readonly #result: CheckResult
  readonly #repair: RepairMode
  /** Corruptions of the table that its writing anew would fix. They count last. */
  pending = 0
  /** Corruptions that are fixed already. */
  fixed = 0

  constructor(header: Qcow2Header, file: IoNode, result: CheckResult, repair: RepairMode) {
    this.#header = header
    this.#file = file
    this.#result = result
    this.#repair = repair
  }

  #report(text: string): void {
    this.#result.reports ??= []
    this.#result.reports.push(this.#result.messages.length)
    this.#result.messages.push(text)
  }

  /** Reads and checks the table; with repair, a table with too many entries is cut. */
  async read(): Promise<SnapshotTable> {
    const header = this.#header
    let dropped = 0
    const over = header.snapshotCount - maxSnapshots
    if (over > 0 && this.#repair.errors) {
      this.#result.messages.push(`Discarding ${over} overhanging snapshots`)
      dropped += over
      header.snapshotCount = maxSnapshots
    }
    this.#validate()
    let table: SnapshotTable
    try {
      table = await readSnapshotTable(
        this.#file,
        header,
        this.#repair.errors
          ? {
              extraDropped: (index, bytes) => {
                this.pending++
                this.#result.messages.push(
                  `Discarding too much extra metadata in snapshot table entry ${index} ` +
                    `(${bytes} > ${maxSnapshotExtraBytes})`,
                )
              },
              entriesDropped: (count) => {
                dropped += count
                this.#result.messages.push(
                  `Discarding ${count} overhanging snapshots (snapshot table is too big)`,
                )
              },
            }
          : undefined,
      )
    } catch (error) {
      if (!isBlockError(error)) {
        throw error
      }
      this.#result.checkErrors++
      this.#report(`ERROR failed to read the snapshot table: ${error.message}`)
      if (error.hint !== undefined) {
        this.#result.messages.push(error.hint)
      }
      throw ioError(error.code)
    }
    if (dropped !== 0) {
      await this.#writeCount(table.snapshots.length)
      this.fixed += dropped
    }
    this.#findIncomplete(table)
    return table
  }

  #validate(): void {
    const { snapshotCount, snapshotsOffset, clusterSize } = this.#header
    if (snapshotCount > maxSnapshots) {
      this.#result.checkErrors++
      this.#report('ERROR snapshot table too large')
      const over = snapshotCount - maxSnapshots
      this.#result.messages.push(
        `You can force-remove all ${over} overhanging snapshots with qemu-img check -r all`,
      )
      throw ioError('EFBIG')
    }
    if (
      snapshotsOffset % clusterSize !== 0 ||
      snapshotsOffset + snapshotCount * snapshotHeaderBytes >= 2 ** 63
    ) {
      this.#result.checkErrors++
      this.#report('ERROR snapshot table offset invalid')
      throw ioError('EINVAL')
    }
  }

  async #writeCount(count: number): Promise<void> {
    const field = new Uint8Array(4)
    new DataView(field.buffer).setUint32(0, count)
    try {
      await writeRepairThrough(this.#file, headerCountField, field)
    } catch (error) {
      this.#result.checkErrors++
      this.#result.messages.push(
        `ERROR failed to update the snapshot count in the image header: ${errnoText(error)}`,
      )
      throw ioError(codeOf(error))
    }
    this.#header.snapshotCount = count
  }

  /** Version 3 wants VM state size and disk size in every entry. */
  #findIncomplete(table: SnapshotTable): void {
    if (this.#header.version < 3) {
      return
    }
    const word = this.#repair.errors ? 'Repairing' : 'ERROR'
    table.snapshots.forEach((snapshot, index) => {
      if (snapshot.extraDataBytes < 16) {
        this.pending++
        this.#result.messages.push(`${word} snapshot table entry ${index} is incomplete`)
      }
    })
  }

  /** Repairs what {@link pending} counts, if that is wanted, by `writeTable`. */
  async fix(writeTable: (() => Promise<void>) | undefined): Promise<void> {
    if (this.pending === 0 || !this.#repair.errors || writeTable === undefined) {
      return
    }
    try {
      await writeTable()
    } catch (error) {
      this.#result.checkErrors++
      this.#result.messages.push(`ERROR failed to update snapshot table: ${errnoText(error)}`)
      throw ioError(codeOf(error))
    }
    this.fixed += this.pending
    this.pending = 0
  }

  /** Adds what was found in the table to the whole result. */
  settle(): void {
    this.#result.corruptions += this.pending
    this.#result.corruptionsFixed += this.fixed
    this.pending = 0
    this.fixed = 0
  }
}
