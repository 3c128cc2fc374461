import { blockError, codeOf, ioError } from '../../../errors/index.js'
import type { NewSnapshot, SnapshotOperations } from '../../../graph/index.js'
import { maxL1Bytes, maxSnapshots, tableEntryBytes } from './constants.js'
import { readPadded } from './file-read.js'
import type { L2Tables } from './l2-tables.js'
import type { Qcow2Metadata } from './metadata.js'
import type { Resize } from './resize.js'
import { SnapshotRefcounts } from './snapshot-refcounts.js'
import { type Qcow2Snapshot, serializeSnapshots } from './snapshot-table.js'
import type { ZeroDiscard } from './zero-discard.js'

/** Byte offset of the fields "snapshot count" and "snapshot table offset" in the header. */
const headerSnapshotsField = 60

/** Parts of the driver that snapshots use. */
export interface SnapshotParts {
  readonly meta: Qcow2Metadata
  readonly tables: L2Tables
  readonly resize: Resize
  readonly zeroDiscard: ZeroDiscard
  /** Host clusters may hold something else from now on. */
  forgetDecoded(): void
}

/**
 * Internal snapshots. A snapshot is a copy of the L1 table; everything below it is shared, so
 * the refcounts of all clusters go up and the COPIED flags away.
 *
 * What a crash leaves, in the order in which things are written: refcounts first, then flags, then
 * the snapshot table, last its address in the header. Removing goes the other way round. In between
 * a check finds leaks and flags that do not fit; no data is lost and none is shared unawares.
 */
export class Qcow2Snapshots implements SnapshotOperations {
  readonly #parts: SnapshotParts
  readonly #meta: Qcow2Metadata
  readonly #refcounts: SnapshotRefcounts

  constructor(parts: SnapshotParts) {
    this.#parts = parts
    this.#meta = parts.meta
    this.#refcounts = new SnapshotRefcounts(parts.meta)
  }

  /** A data file cannot be shared between the guest and its snapshots. */
  #refuseExternal(): void {
    if (this.#meta.isExternal) {
      throw ioError('ENOTSUP')
    }
  }

  /** @throws EFBIG at 65536 snapshots, EEXIST, ENOTSUP with an external data file, EINVAL for a full refcount */
  async create(snapshot: NewSnapshot): Promise<void> {
    const meta = this.#meta
    this.#refuseExternal()
    const { snapshots, header, geometry, l1 } = meta
    if (snapshots.length >= maxSnapshots) {
      throw ioError('EFBIG')
    }
    const encoder = new TextEncoder()
    const id = snapshot.id === '' ? nextId(snapshots) : snapshot.id
    const idBytes = encoder.encode(id)
    const nameBytes = encoder.encode(snapshot.name)
    if (snapshots.some((other) => other.id === id)) {
      throw ioError('EEXIST')
    }
    if (idBytes.length > 0xffff || nameBytes.length > 0xffff) {
      throw ioError('EINVAL')
    }
    await this.#changing(async () => {
      const bytes = l1.bytes.slice()
      const offset = await this.#writeCopy(bytes)
      try {
        await this.#update(1)
      } catch (error) {
        await meta.allocator.free(offset, bytes.length, 'always', false)
        throw error
      }
      const created: Qcow2Snapshot = {
        ...snapshot,
        id,
        idBytes,
        nameBytes,
        unknownExtra: new Uint8Array(0),
        extraDataBytes: 0,
        diskSize: header.size,
        storedDiskSize: BigInt(header.size),
        storedVmState: BigInt(snapshot.vmStateSize),
        l1TableOffset: BigInt(offset),
        l1Size: l1.size,
      }
      await this.#writeTable([...snapshots, created])
    })
    // The guest's own tree need not keep the VM state: the next snapshot would copy it for nothing.
    const start = header.l1VmStateIndex * geometry.l1Span
    await this.#parts.zeroDiscard.change(start, start + snapshot.vmStateSize, 'discard', 'never')
    await this.#flush()
  }

  /** Writes an L1 table to clusters of its own. An empty table has none; QEMU gives it the next offset. */
  async #writeCopy(bytes: Uint8Array): Promise<number> {
    const { allocator, geometry } = this.#meta
    const offset = await allocator.allocate(geometry.clusters(bytes.length))
    try {
      if (bytes.length !== 0) {
        await this.#write(offset, bytes)
      }
    } catch (error) {
      await allocator.free(offset, bytes.length, 'always', false)
      throw error
    }
    return offset
  }

  /** Updates the guest's own tree and its L1 table. */
  async #update(change: 1 | 0): Promise<void> {
    const { l1 } = this.#meta
    if (await this.#refcounts.update(l1.bytes, change)) {
      await this.#meta.writeThrough(l1.offset, l1.bytes)
    }
  }

  /** @throws ENOENT `Failed to load snapshot: …`, as for every other failure */
  async apply(id: string): Promise<void> {
    this.#refuseExternal()
    const index = this.#find(id, undefined) ?? this.#find(undefined, id)
    const snapshot = index === undefined ? undefined : this.#meta.snapshots[index]
    if (snapshot === undefined) {
      throw ioError('ENOENT')
    }
    const l1Offset = this.#checkL1(snapshot)
    if (snapshot.diskSize !== this.#meta.header.size) {
      await this.#parts.resize.truncate(snapshot.diskSize, { exact: true, preallocation: 'off', zero: false })
    }
    await this.#changing(async () => {
      const { l1, overlap } = this.#meta
      await this.#parts.tables.growL1(snapshot.l1Size, true)
      const bytes = new Uint8Array(l1.size * tableEntryBytes)
      const stored = bytes.subarray(0, snapshot.l1Size * tableEntryBytes)
      await this.#read(l1Offset, stored)
      const counted = stored.slice()
      if (await this.#refcounts.update(counted, 1)) {
        await this.#meta.writeThrough(l1Offset, counted)
      }
      // From here on the guest may write: nothing may look as if it belonged to the guest alone.
      stored.set(counted)
      overlap?.checkActiveL1()
      await this.#meta.writeThrough(l1.offset, bytes)
      const old = l1.bytes
      l1.replace(l1.offset, bytes)
      await this.#refcounts.update(old, -1)
      await this.#update(0)
    })
    await this.#flush()
  }

  /** @throws ENOENT `Can't find the snapshot`, or what could not be done */
  async remove(id: string, name: string): Promise<void> {
    this.#refuseExternal()
    const index = this.#find(id, name)
    const { snapshots } = this.#meta
    const snapshot = index === undefined ? undefined : snapshots[index]
    if (snapshot === undefined) {
      throw blockError('ENOENT', "Can't find the snapshot")
    }
    const l1Offset = this.#checkL1(snapshot)
    await this.#changing(async () => {
      const { allocator } = this.#meta
      const l1 = new Uint8Array(snapshot.l1Size * tableEntryBytes)
      await this.#read(l1Offset, l1)
      await step('Failed to remove snapshot from snapshot list', () =>
        this.#writeTable(snapshots.filter((other) => other !== snapshot)),
      )
      await step('Failed to free the cluster and L1 table', () => this.#refcounts.update(l1, -1))
      await allocator.free(l1Offset, l1.length, 'snapshot', false)
      await step('Failed to update snapshot status in disk', () => this.#update(0))
    })
    await this.#flush()
  }

  /** @throws ENOENT `Can't find snapshot` */
  async load(id: string | undefined, name: string | undefined): Promise<void> {
    const meta = this.#meta
    const index = this.#find(id, name)
    const snapshot = index === undefined ? undefined : meta.snapshots[index]
    if (snapshot === undefined) {
      throw blockError('ENOENT', "Can't find snapshot")
    }
    const offset = this.#checkL1(snapshot)
    await meta.locked(async () => {
      if (!meta.loaded) {
        await meta.load()
      }
      const bytes = new Uint8Array(snapshot.l1Size * tableEntryBytes)
      await step('Failed to read l1 table for snapshot', () => this.#read(offset, bytes))
      meta.l1.replace(offset, bytes)
    })
    this.#parts.forgetDecoded()
  }

  /** Writes the table anew, with everything an entry must have. Lock held. */
  async rewrite(): Promise<void> {
    const { allocator, geometry, refcounts, header, file, snapshotTableBytes } = this.#meta
    const first = header.snapshotsOffset / geometry.clusterSize
    const end = geometry.clusters(Math.min(header.snapshotsOffset + snapshotTableBytes, file.length))
    if (first < end && (await refcounts.get(first)) === 0) {
      // The old table claims more than the file has, so nothing counts it; it must last until the new one stands.
      allocator.ban(first, end - first)
      if (first !== 0) {
        // Nor does it keep everything behind the end of the file for itself.
        this.#meta.snapshotTableBytes = (end - first) * geometry.clusterSize
      }
    }
    await this.#writeTable([...this.#meta.snapshots])
  }

  /** Runs `body` with the metadata lock held and the tables in memory; the protection of metadata follows. */
  async #changing(body: () => Promise<void>): Promise<void> {
    const meta = this.#meta
    await meta.locked(async () => {
      if (!meta.loaded) {
        await meta.load()
      }
      try {
        await body()
      } finally {
        this.#parts.forgetDecoded()
        await meta.overlap?.load()
      }
      await meta.allocator.passDiscards()
    })
  }

  async #flush(): Promise<void> {
    const meta = this.#meta
    await meta.locked(async () => {
      await meta.flushL2()
      await meta.flushBlocks()
    })
  }

  /**
   * Writes the table with these snapshots to new clusters, then its address, then frees the old one.
   * Lock held.
   */
  async #writeTable(snapshots: readonly Qcow2Snapshot[]): Promise<void> {
    const meta = this.#meta
    const { allocator, geometry, header } = meta
    const bytes = serializeSnapshots(snapshots)
    // An empty table gets an address all the same, as in QEMU.
    const offset = await allocator.allocate(geometry.clusters(bytes.length))
    try {
      await meta.flushL2()
      await meta.flushBlocks()
      if (bytes.length !== 0) {
        await meta.writeThrough(offset, bytes)
      }
    } catch (error) {
      await allocator.free(offset, bytes.length, 'always', false)
      throw error
    }
    const field = new Uint8Array(12)
    const view = new DataView(field.buffer)
    view.setUint32(0, snapshots.length)
    view.setUint32(4, Math.floor(offset / 0x100000000))
    view.setUint32(8, offset % 0x100000000)
    // If this fails the header on disk may name the new table: its clusters stay counted.
    await meta.writeThrough(headerSnapshotsField, field)
    const oldOffset = header.snapshotsOffset
    const oldBytes = meta.snapshotTableBytes
    header.snapshotCount = snapshots.length
    header.snapshotsOffset = offset
    meta.snapshots.splice(0, meta.snapshots.length, ...snapshots)
    meta.snapshotTableBytes = bytes.length
    await allocator.free(oldOffset, oldBytes, 'snapshot', false)
  }

  #find(id: string | undefined, name: string | undefined): number | undefined {
    if (id === undefined && name === undefined) {
      return undefined
    }
    const index = this.#meta.snapshots.findIndex(
      (snapshot) =>
        (id === undefined || snapshot.id === id) && (name === undefined || snapshot.name === name),
    )
    return index < 0 ? undefined : index
  }

  /** The place of a snapshot's L1 table. Throws if the entry has it in no possible place. */
  #checkL1(snapshot: Qcow2Snapshot): number {
    const { l1TableOffset, l1Size } = snapshot
    if (l1Size > maxL1Bytes / tableEntryBytes) {
      throw blockError('EFBIG', 'Snapshot L1 table too large')
    }
    if (
      l1TableOffset % BigInt(this.#meta.geometry.clusterSize) !== 0n ||
      l1TableOffset > 0x7fffffffffffffffn - BigInt(l1Size * tableEntryBytes)
    ) {
      throw blockError('EINVAL', 'Snapshot L1 table offset invalid')
    }
    return Number(l1TableOffset)
  }

  async #read(offset: number, into: Uint8Array): Promise<void> {
    const wait = readPadded(this.#meta.file, offset, into)
    if (wait !== undefined) {
      await wait
    }
  }

  async #write(offset: number, bytes: Uint8Array): Promise<void> {
    const wait = this.#meta.file.write(offset, bytes.length, bytes, 0, 0)
    if (wait !== undefined) {
      await wait
    }
  }
}

/** Runs `body`; an error becomes `text` alone, as QEMU has it. */
async function step<T>(text: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body()
  } catch (error) {
    throw blockError(codeOf(error), text, { cause: error })
  }
}

/** One more than the largest number that an id begins with. */
function nextId(snapshots: readonly Qcow2Snapshot[]): string {
  let largest = 0n
  for (const { id } of snapshots) {
    const number = BigInt(/^\s*\+?(\d+)/.exec(id)?.[1] ?? 0)
    if (number > largest && number < 2n ** 64n) {
      largest = number
    }
  }
  return String(largest + 1n)
}
