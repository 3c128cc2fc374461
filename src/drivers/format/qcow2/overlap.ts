import type { BlockError } from '../../../errors/index.js'
import { IndexRanges } from '../../../formatkit/index.js'
import type { OptionsOf } from '../../../options/index.js'
import { Autoclear, maxL1Bytes, tableEntryBytes } from './constants.js'
import { readInside } from './file-read.js'
import { hostOffset } from './l2-entry.js'
import type { Qcow2Metadata } from './metadata.js'
import type { qcow2RuntimeOptions } from './options.js'

const structures = [
  'main-header',
  'active-l1',
  'active-l2',
  'refcount-table',
  'refcount-block',
  'snapshot-table',
  'inactive-l1',
  'inactive-l2',
  'bitmap-directory',
] as const

export type Structure = (typeof structures)[number]

const constant: readonly Structure[] = [
  'main-header',
  'active-l1',
  'refcount-table',
  'snapshot-table',
  'bitmap-directory',
]
const cached: readonly Structure[] = [...constant, 'active-l2', 'refcount-block', 'inactive-l1']

/** What each template of the option `overlap-check` protects. */
export const overlapTemplates: Readonly<Record<string, readonly Structure[]>> = {
  none: [],
  constant,
  cached,
  all: structures,
}

/** The structures that an open's options protect. The template is one of {@link overlapTemplates}. */
export function protectedStructures(options: OptionsOf<typeof qcow2RuntimeOptions>): Set<Structure> {
  const template = options['overlap-check'] ?? options['overlap-check.template'] ?? 'cached'
  const chosen = new Set<Structure>(overlapTemplates[template] ?? cached)
  for (const structure of structures) {
    const wanted = options[`overlap-check.${structure}`]
    if (wanted === true) {
      chosen.add(structure)
    } else if (wanted === false) {
      chosen.delete(structure)
    }
  }
  return chosen
}

/**
 * Knows where metadata stands, so that corrupt references cannot make data overwrite it.
 * Asked before every write to host clusters, so look-ups are cheap.
 */
export class OverlapCheck {
  readonly #meta: Qcow2Metadata
  readonly #protected: ReadonlySet<Structure>
  /** Clusters of L2 tables and of refcount blocks. */
  readonly #tables = new IndexRanges()
  readonly #blocks = new IndexRanges()
  readonly #inactiveTables = new IndexRanges()
  /** L2 tables and refcount blocks that share a cluster with something else: offset, and with what. */
  readonly #misplaced = new Map<number, string>()

  constructor(meta: Qcow2Metadata, structures: ReadonlySet<Structure>) {
    this.#meta = meta
    this.#protected = structures
  }

  /** Collects what is in the tables as they are now. */
  async load(): Promise<void> {
    const { l1, refcounts, geometry } = this.#meta
    if (this.#protected.has('active-l2')) {
      const found: number[] = []
      for (let index = 0; index < l1.size; index++) {
        const offset = l1.tableOffset(index)
        if (offset !== 0) {
          found.push(Math.floor(offset / geometry.clusterSize))
        }
      }
      this.#tables.fill(found)
    }
    if (this.#protected.has('refcount-block')) {
      const found: number[] = []
      for (let index = 0; index < refcounts.tableSize; index++) {
        const offset = refcounts.entry(index)
        if (offset !== 0) {
          found.push(Math.floor(offset / geometry.clusterSize))
        }
      }
      this.#blocks.fill(found)
    }
    if (this.#protected.has('inactive-l2')) {
      await this.#loadInactive()
    }
    this.#findMisplaced()
  }

  /** A table that stands on other metadata must not be changed; to find out on every change costs too much. */
  #findMisplaced(): void {
    const { l1, refcounts, geometry } = this.#meta
    this.#misplaced.clear()
    for (let index = 0; index < l1.size; index++) {
      const offset = l1.tableOffset(index)
      const hit = offset === 0 ? undefined : this.#find(offset, geometry.clusterSize, 'active-l2')
      if (hit !== undefined) {
        this.#misplaced.set(offset, hit)
      }
    }
    for (let index = 0; index < refcounts.tableSize; index++) {
      const offset = refcounts.entry(index)
      const hit = offset === 0 ? undefined : this.#find(offset, geometry.clusterSize, 'refcount-block')
      if (hit !== undefined) {
        this.#misplaced.set(offset, hit)
      }
    }
  }

  async #loadInactive(): Promise<void> {
    const { file, geometry } = this.#meta
    const found: number[] = []
    for (const { l1TableOffset, l1Size } of this.#meta.snapshots) {
      const bytes = Math.min(l1Size * tableEntryBytes, maxL1Bytes)
      const table = await readInside(file, Number(l1TableOffset), bytes)
      const view = new DataView(table.buffer)
      for (let at = 0; at + tableEntryBytes <= table.length; at += tableEntryBytes) {
        const offset = hostOffset(view.getUint32(at), view.getUint32(at + 4))
        if (offset !== 0) {
          found.push(Math.floor(offset / geometry.clusterSize))
        }
      }
    }
    this.#inactiveTables.fill(found)
  }

  /** The cluster at `offset` has become, or is no longer, an L2 table. */
  setTable(offset: number, present: boolean): void {
    if (this.#protected.has('active-l2')) {
      change(this.#tables, offset / this.#meta.geometry.clusterSize, present)
    }
  }

  /** The cluster at `offset` has become, or is no longer, a refcount block. */
  setBlock(offset: number, present: boolean): void {
    if (this.#protected.has('refcount-block')) {
      change(this.#blocks, offset / this.#meta.geometry.clusterSize, present)
    }
  }

  /** Throws EIO, and reports the image as corrupt, if `[offset, +bytes)` touches a cluster of metadata. */
  check(offset: number, bytes: number): void {
    const hit = this.#find(offset, bytes)
    if (hit !== undefined) {
      throw this.#overlap(hit, offset, bytes)
    }
  }

  /** {@link check} for a write to structures of the kind `except`. */
  checkExcept(offset: number, bytes: number, except: Structure): void {
    const hit = this.#find(offset, bytes, except)
    if (hit !== undefined) {
      throw this.#overlap(hit, offset, bytes)
    }
  }

  /** Throws EIO, and reports the image as corrupt, if the table or block at `offset` must not be changed. */
  checkTable(offset: number): void {
    const hit = this.#misplaced.size === 0 ? undefined : this.#misplaced.get(offset)
    if (hit !== undefined) {
      throw this.#overlap(hit, offset, this.#meta.geometry.clusterSize)
    }
  }

  /** Throws EIO, and reports the image as corrupt, if the active L1 table stands on other metadata. */
  checkActiveL1(): void {
    const { l1 } = this.#meta
    const hit = l1.size === 0 ? undefined : this.#find(l1.offset, l1.size * tableEntryBytes, 'active-l1')
    if (hit !== undefined) {
      throw this.#overlap(hit, l1.offset, l1.size * tableEntryBytes)
    }
  }

  #overlap(hit: string, offset: number, size: number): BlockError {
    const text = `Preventing invalid write on metadata (overlaps with ${hit})`
    return this.#meta.corruption.signal(text, true, { offset, size })
  }

  /** What the range touches, apart from structures of the kind `except`. */
  #find(offset: number, bytes: number, except?: Structure): string | undefined {
    const { geometry, l1, header } = this.#meta
    const { clusterSize } = geometry
    const chosen = this.#protected
    if (chosen.has('main-header') && offset < clusterSize) {
      return 'qcow2_header'
    }
    const start = geometry.clusterStart(offset)
    const end = geometry.clusterEnd(offset + bytes)
    const touches = (at: number, length: number): boolean =>
      length !== 0 && at < end && geometry.clusterEnd(at + length) > start
    if (except !== 'active-l1' && chosen.has('active-l1') && touches(l1.offset, l1.size * tableEntryBytes)) {
      return 'active L1 table'
    }
    const first = start / clusterSize
    const last = end / clusterSize
    if (except !== 'active-l2' && this.#tables.overlaps(first, last)) {
      return 'active L2 table'
    }
    const tableBytes = header.refcountTableClusters * clusterSize
    if (chosen.has('refcount-table') && touches(header.refcountTableOffset, tableBytes)) {
      return 'refcount table'
    }
    if (except !== 'refcount-block' && this.#blocks.overlaps(first, last)) {
      return 'refcount block'
    }
    if (header.snapshotCount !== 0) {
      if (chosen.has('snapshot-table') && touches(header.snapshotsOffset, this.#meta.snapshotTableBytes)) {
        return 'snapshot table'
      }
      if (chosen.has('inactive-l1')) {
        for (const snapshot of this.#meta.snapshots) {
          if (touches(Number(snapshot.l1TableOffset), snapshot.l1Size * tableEntryBytes)) {
            return 'inactive L1 table'
          }
        }
      }
      if (except !== 'inactive-l2' && this.#inactiveTables.overlaps(first, last)) {
        return 'inactive L2 table'
      }
    }
    const bitmaps = header.bitmaps
    if (
      bitmaps !== undefined &&
      except !== 'bitmap-directory' &&
      chosen.has('bitmap-directory') &&
      (header.autoclear & Autoclear.bitmaps) !== 0 &&
      touches(bitmaps.directoryOffset, bitmaps.directorySize)
    ) {
      return 'bitmap directory'
    }
    return undefined
  }
}

function change(ranges: IndexRanges, index: number, present: boolean): void {
  if (present) {
    ranges.add(index, index + 1)
  } else {
    ranges.remove(index, index + 1)
  }
}
