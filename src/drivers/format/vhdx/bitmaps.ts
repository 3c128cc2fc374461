import { readPadded } from '../../../formatkit/index.js'
import type { BlockChild } from '../../../graph/index.js'
import type { LoggedMetadata } from './changes.js'
import { logSectorBytes } from './layout.js'
import type { ReplayedFile } from './overlay.js'

/** Sectors of bitmaps kept: 4 MiB. */
const capacity = 1024

interface BitmapSector {
  readonly bytes: Uint8Array
  dirty: boolean
  /** It was taken to be written and must not be read from the file before that is done. */
  busy: boolean
}

/** Bitmap blocks of a differencing disk, as sectors of 4096 bytes by their place in the file. */
export class SectorBitmaps implements LoggedMetadata {
  readonly #file: BlockChild
  readonly #view: ReplayedFile | undefined
  /** In the order of use, the least recently used one first. */
  readonly #sectors = new Map<number, BitmapSector>()
  readonly #loading = new Map<number, Promise<Uint8Array>>()
  #dirty = 0

  /** @param view what the file is like once its log is replayed, if it is replayed in memory only */
  constructor(file: BlockChild, view: ReplayedFile | undefined) {
    this.#file = file
    this.#view = view
  }

  get isDirty(): boolean {
    return this.#dirty !== 0
  }

  /** Too much has changed to be kept: it should be written back. */
  get isFull(): boolean {
    return this.#dirty > capacity / 2
  }

  /** The sector at `offset` (a multiple of 4096) if it is in memory. It stays there until the next await. */
  get(offset: number): Uint8Array | undefined {
    const sector = this.#sectors.get(offset)
    if (sector === undefined) {
      return undefined
    }
    this.#sectors.delete(offset)
    this.#sectors.set(offset, sector)
    return sector.bytes
  }

  async load(offset: number): Promise<Uint8Array> {
    const here = this.get(offset)
    if (here !== undefined) {
      return here
    }
    const before = this.#loading.get(offset)
    if (before !== undefined) {
      return await before
    }
    const loading = this.#read(offset)
    this.#loading.set(offset, loading)
    try {
      return await loading
    } finally {
      this.#loading.delete(offset)
    }
  }

  async #read(offset: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(logSectorBytes)
    if (this.#view !== undefined) {
      await this.#view.read(offset, bytes)
    } else {
      await readPadded(this.#file.node, offset, bytes)
    }
    this.#evict(capacity - 1)
    this.#sectors.set(offset, { bytes, dirty: false, busy: false })
    return bytes
  }

  #evict(most: number): void {
    for (const [offset, { dirty, busy }] of this.#sectors) {
      if (this.#sectors.size <= most) {
        return
      }
      if (!dirty && !busy) {
        this.#sectors.delete(offset)
      }
    }
  }

  /** The sector at `offset`, which is in memory, has been changed in this synchronous block. */
  markDirty(offset: number): void {
    const sector = this.#sectors.get(offset)
    if (sector !== undefined && !sector.dirty) {
      sector.dirty = true
      this.#dirty++
    }
  }

  takeChanges(): { offset: number; data: Uint8Array }[] {
    const taken: { offset: number; data: Uint8Array }[] = []
    for (const [offset, sector] of this.#sectors) {
      if (sector.dirty) {
        sector.dirty = false
        sector.busy = true
        taken.push({ offset, data: sector.bytes.slice() })
      }
    }
    this.#dirty = 0
    return taken
  }

  restore(changes: readonly { readonly offset: number }[]): void {
    this.written()
    for (const { offset } of changes) {
      this.markDirty(offset)
    }
  }

  written(): void {
    for (const sector of this.#sectors.values()) {
      sector.busy = false
    }
    this.#evict(capacity)
  }

  /** Forgets everything, changes included. */
  clear(): void {
    this.#sectors.clear()
    this.#dirty = 0
  }
}
