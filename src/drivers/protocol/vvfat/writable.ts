import type { Host } from '../../../host/index.js'
import type { FlushPath, IoNode } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { apply, compare, type FolderContents } from './apply.js'
import type { VvfatDisk } from './build.js'
import { clusterBytes, sectorBytes } from './geometry.js'
import { type DiskReader, interpret } from './interpret.js'
import { Overlay } from './overlay.js'
import { VvfatState } from './state.js'

/**
 * A folder that the guest may change: writes go to an overlay; a flush, and the end, bring the folder up to date.
 * A flush that fails has left files as they were or as they should be; the disk keeps what was written, so that a
 * later flush does what is left.
 */
export class WritableState extends VvfatState {
  readonly flushPath: FlushPath
  readonly #host: Host
  readonly #dir: string
  readonly #disk: VvfatDisk
  readonly #overlay: Overlay
  readonly #held: FolderContents = { entries: new Map(), leftovers: new Set(), unsynced: new Set() }
  readonly #reader: DiskReader = (offset, buffer) => this.readNow(offset, buffer.length, buffer, 0)

  private constructor(node: IoNode, host: Host, dir: string, disk: VvfatDisk, overlay: Overlay) {
    super(node, host.files, disk, overlay)
    this.#host = host
    this.#dir = dir.replace(/(?<=.)\/$/, '')
    this.#disk = disk
    this.#overlay = overlay
    this.flushPath = { flushToDisk: () => this.exclusively(() => this.#writeBack()) }
  }

  static async open(node: IoNode, host: Host, dir: string, disk: VvfatDisk): Promise<WritableState> {
    const overlay = await Overlay.open(host.files, disk.geometry.total)
    const state = new WritableState(node, host, dir, disk, overlay)
    try {
      for (const entry of await interpret(disk.geometry, state.#reader)) {
        state.#held.entries.set(entry.path, entry)
      }
    } catch (error) {
      await overlay.close()
      throw error
    }
    return state
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.exclusively(() => this.#overlay.write(offset, bytes, buffer, bufferOffset))
  }

  async #writeBack(): Promise<void> {
    if (!this.#overlay.dirty) {
      return
    }
    const { geometry } = this.#disk
    const { entries } = this.#held
    const after = await interpret(geometry, this.#reader, new Set(entries.keys()))
    const data = geometry.root * sectorBytes
    const changes = compare(entries, after, ({ clusters }) =>
      clusters.some((cluster) => this.#overlay.changed(data + cluster * clusterBytes, clusterBytes)),
    )
    const touched = [...changes.files, ...changes.gone].map(({ path }) => `${this.#dir}/${path}`)
    await this.keep(new Set(touched))
    await apply(this.#host.files, this.#dir, geometry, changes, this.#reader, this.#held)
    entries.clear()
    for (const entry of after) {
      entries.set(entry.path, entry)
    }
    this.#overlay.settle()
  }

  override close(): Wait {
    return this.exclusively(async () => {
      try {
        await this.#writeBack()
      } finally {
        await this.#overlay.close()
        await super.close()
      }
    })
  }
}
