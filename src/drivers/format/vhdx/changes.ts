import { type BlockChild, type BlockNode, hasZeroInit, truncateNode } from '../../../graph/index.js'
import { Mutex } from '../../../sched/index.js'
import type { Headers } from './headers.js'
import { mebibyte } from './layout.js'
import type { Log } from './log.js'

/** Metadata in memory that goes to the file through the log, in sectors of 4096 bytes. */
export interface LoggedMetadata {
  readonly isDirty: boolean
  /** Copies of what changed, which counts as written from now on. */
  takeChanges(): { offset: number; data: Uint8Array }[]
  restore(changes: readonly { readonly offset: number }[]): void
  /** What {@link takeChanges} took stands in its place in the file. */
  written?(): void
}

export interface ChangesContext {
  readonly node: BlockNode
  readonly file: BlockChild
  readonly headers: Headers
  readonly log: Log
  /** In the order in which they have to become durable: what refers to others comes after them. */
  readonly metadata: readonly LoggedMetadata[]
}

/** What an image with this one as its parent does before this one's identifier changes. */
export interface Overlay {
  parentChanges?(dataWriteGuid: Uint8Array): Promise<void>
}

/** Changes of a disk: its identifiers, its file's length, and its metadata on the way through the log. */
export class DiskChanges {
  /** Held while the file gets longer or the log is written. */
  readonly mutex = new Mutex()
  readonly #context: ChangesContext
  readonly #spare: number[] = []
  #announced = false

  constructor(context: ChangesContext) {
    this.#context = context
  }

  get log(): Log {
    return this.#context.log
  }

  /** The headers say that the disk's contents have changed. */
  get isAnnounced(): boolean {
    return this.#announced
  }

  /**
   * Before the first change of the contents the headers get new identifiers: other files know the disk by
   * them. Those that are open above it record the new one first.
   */
  async announce(): Promise<void> {
    const { headers, node } = this.#context
    await this.mutex.run(async () => {
      if (!this.#announced) {
        const dataWriteGuid = headers.newGuid()
        for (const overlay of overlaysOf(node)) {
          await overlay.parentChanges?.(dataWriteGuid)
        }
        await headers.update({ dataWriteGuid })
        this.#announced = true
      }
    })
  }

  /** Room for a block of `bytes` (whole MiB): one given back, or the file gets longer. */
  async takeBlock(bytes: number): Promise<{ readonly place: number; readonly isZero: boolean }> {
    const spare = this.#spare.pop()
    if (spare !== undefined) {
      return { place: spare, isZero: false }
    }
    const place = await this.mutex.run(() => this.grow(bytes))
    return { place, isZero: hasZeroInit(this.#context.file.node) }
  }

  /** A payload block that will not be used after all. */
  giveBack(place: number): void {
    this.#spare.push(place)
  }

  /** Makes the file longer by `bytes`; returns where they begin, a whole MiB. Mutex held. */
  async grow(bytes: number): Promise<number> {
    const { node } = this.#context.file
    const place = Math.ceil(node.length / mebibyte) * mebibyte
    await truncateNode(node, place + bytes, { exact: false, preallocation: 'off', zero: false })
    return place
  }

  get isDirty(): boolean {
    return this.#context.metadata.some((part) => part.isDirty)
  }

  /** Writes all changed metadata through the log. Mutex held. */
  async writeBack(): Promise<void> {
    const { metadata, log } = this.#context
    const taken = metadata.map((part) => ({ part, changes: part.takeChanges() }))
    try {
      await log.write(taken.flatMap(({ changes }) => changes))
    } catch (error) {
      for (const { part, changes } of taken) {
        part.restore(changes)
      }
      throw error
    }
    for (const { part } of taken) {
      part.written?.()
    }
  }

  /** Nothing of the file behind `end` (bytes) is used any more. All is written back; mutex held. */
  async cut(end: number): Promise<void> {
    const { file, log } = this.#context
    // An entry of the log says how long the file has to be.
    await log.clear()
    this.#spare.length = 0
    await truncateNode(file.node, end, { exact: false, preallocation: 'off', zero: false })
  }

  /** Leaves a file that needs no replay. */
  async close(): Promise<void> {
    await this.mutex.run(async () => {
      if (this.isDirty) {
        await this.writeBack()
      }
      await this.#context.log.clear()
    })
  }
}

/** VHDX images that have `node` as their backing file, filters between them skipped. */
function overlaysOf(node: BlockNode): Overlay[] {
  return node.parents.flatMap((edge) => {
    const above = edge.parent.parentNode
    if (above === undefined) {
      return []
    }
    if (above.isFilter) {
      return overlaysOf(above)
    }
    return edge.name === 'backing' && above.driver?.name === 'vhdx' ? [above.state as Overlay] : []
  })
}
