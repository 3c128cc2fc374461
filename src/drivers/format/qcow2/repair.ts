import type { Qcow2Repair } from './check.js'
import { Incompatible } from './constants.js'
import type { Qcow2Metadata } from './metadata.js'
import type { Qcow2Snapshots } from './snapshot-operations.js'
import type { SnapshotTable } from './snapshot-table.js'

/** What a repair needs of an open image. The metadata lock is held all the while. */
export class ImageRepair implements Qcow2Repair {
  readonly #meta: Qcow2Metadata
  readonly #snapshots: Qcow2Snapshots
  readonly #forgetDecoded: () => void

  constructor(meta: Qcow2Metadata, snapshots: Qcow2Snapshots, forgetDecoded: () => void) {
    this.#meta = meta
    this.#snapshots = snapshots
    this.#forgetDecoded = forgetDecoded
  }

  get overlap() {
    return this.#meta.overlap
  }

  async snapshotsRead(table: SnapshotTable): Promise<void> {
    const { snapshots, overlap } = this.#meta
    snapshots.splice(0, snapshots.length, ...table.snapshots)
    this.#meta.snapshotTableBytes = table.bytes
    await overlap?.load()
  }

  divertWarnings(to: ((line: string) => void) | undefined): void {
    this.#meta.corruption.divert = to
  }

  reportCorrupt(message: string): void {
    this.#meta.corruption.signal(message)
  }

  freed(firstCluster: number, count: number): void {
    this.#meta.allocator.freed(firstCluster, count, 'always', false)
  }

  async reload(): Promise<void> {
    const meta = this.#meta
    if (meta.corruption.fatal) {
      return
    }
    meta.l2.clear()
    meta.blocks.clear()
    this.#forgetDecoded()
    meta.allocator.reset()
    await meta.load()
    await meta.allocator.passDiscards()
  }

  async writeSnapshots(): Promise<void> {
    await this.#snapshots.rewrite()
    await this.#meta.flushBlocks()
    await this.#meta.allocator.passDiscards()
  }

  async markClean(): Promise<void> {
    await this.#meta.markClean(Incompatible.dirty | Incompatible.corrupt)
  }
}
