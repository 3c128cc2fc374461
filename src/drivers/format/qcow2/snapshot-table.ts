import { blockError, codeOf, errnoError, ioError } from '../../../errors/index.js'
import type { SnapshotInfo } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import { ByteReader } from './byte-reader.js'
import { maxSnapshotExtraBytes, maxSnapshotTableBytes, snapshotHeaderBytes } from './constants.js'
import { readPadded } from './file-read.js'
import type { Qcow2Header } from './header.js'

/** An internal snapshot with the place of its L1 table. */
export interface Qcow2Snapshot extends SnapshotInfo {
  /** All 64 bits as stored; not checked here. */
  readonly l1TableOffset: bigint
  /** Entries; not checked here. */
  readonly l1Size: number
  /** Bytes of extra data the entry has; version 3 wants 16 at least. */
  readonly extraDataBytes: number
  /** Id and name as stored: they need not be UTF-8. */
  readonly idBytes: Uint8Array
  readonly nameBytes: Uint8Array
  /** The sizes as stored, 64 bits: a number may be less exact. */
  readonly storedVmState: bigint
  readonly storedDiskSize: bigint
  /** Extra data beyond the fields this driver knows, kept for those who do. */
  readonly unknownExtra: Uint8Array
}

/** Bytes of extra data that this driver knows: VM state size, disk size, instruction count. */
export const knownExtraBytes = 24

/** What an entry without instruction count says. */
const noIcount = 0xffffffffffffffffn

export interface SnapshotTable {
  readonly snapshots: readonly Qcow2Snapshot[]
  /** Length of the table in bytes. */
  readonly bytes: number
}

/** Receives what is wrong with a table that is being repaired: such entries are kept as far as possible. */
export interface SnapshotTableRepair {
  /** Entry `index` has more extra data than allowed; the rest of it is dropped. */
  extraDropped(index: number, bytes: number): void
  /** The table becomes too large with the entry at hand: it and what follows, `count` in all, is dropped. */
  entriesDropped(count: number): void
}

/** Bytes of the entry that starts with this header. Pure. */
export function snapshotEntryBytes(header: Uint8Array): number {
  const reader = new ByteReader(header)
  return snapshotHeaderBytes + reader.u32(36) + reader.u16(12) + reader.u16(14)
}

/**
 * Parses one entry of the table. Pure.
 *
 * @param bytes the whole entry
 * @param guestSize what the snapshot's disk size is if the entry does not say, bytes
 */
export function parseSnapshotEntry(bytes: Uint8Array, guestSize: number): Qcow2Snapshot {
  const reader = new ByteReader(bytes)
  const extra = reader.u32(36)
  const idBytes = reader.u16(12)
  const idAt = snapshotHeaderBytes + extra
  const icount = extra >= knownExtraBytes ? reader.u64(snapshotHeaderBytes + 16) : noIcount
  const vmState = extra >= 8 ? reader.u64(snapshotHeaderBytes) : BigInt(reader.u32(32))
  const diskSize = extra >= 16 ? reader.u64(snapshotHeaderBytes + 8) : BigInt(guestSize)
  const id = reader.text(idAt, idBytes)
  const name = reader.text(idAt + idBytes, reader.u16(14))
  return {
    l1TableOffset: reader.u64(0),
    l1Size: reader.u32(8),
    extraDataBytes: extra,
    id: id.text,
    idBytes: id.bytes,
    name: name.text,
    nameBytes: name.bytes,
    unknownExtra: reader.slice(snapshotHeaderBytes + knownExtraBytes, Math.max(0, extra - knownExtraBytes)),
    vmStateSize: Number(vmState),
    storedVmState: vmState,
    dateSeconds: reader.u32(16),
    dateNanoseconds: reader.u32(20),
    vmClockNanoseconds: reader.u64(24),
    ...(icount === noIcount ? {} : { icount }),
    diskSize: Number(diskSize),
    storedDiskSize: diskSize,
  }
}

/**
 * Reads the snapshot table. `header.snapshotCount` and `snapshotsOffset` have been checked, by
 * `parseHeader` or by the check.
 *
 * @param file the node that holds the image
 * @throws EFBIG with QEMU's text and hint
 */
export async function readSnapshotTable(
  file: IoNode,
  header: Qcow2Header,
  repair?: SnapshotTableRepair,
): Promise<SnapshotTable> {
  const snapshots: Qcow2Snapshot[] = []
  const head = new Uint8Array(snapshotHeaderBytes)
  let end = 0
  // What the table would occupy without the extra data that is dropped.
  let kept = 0
  for (let index = 0; index < header.snapshotCount; index++) {
    const before = end
    const at = Math.ceil(end / 8) * 8
    await readTable(file, header.snapshotsOffset + at, head)
    const extraBytes = new ByteReader(head).u32(36)
    const tooMuch = Math.max(0, extraBytes - maxSnapshotExtraBytes)
    if (tooMuch !== 0 && repair !== undefined) {
      repair.extraDropped(index, extraBytes)
      snapshots.push(await readCutEntry(file, header, at, head))
      end = at + snapshotEntryBytes(head)
    } else if (tooMuch !== 0) {
      throw blockError('EFBIG', `Too much extra metadata in snapshot table entry ${index}`, {
        hint: 'You can force-remove this extra metadata with qemu-img check -r all',
      })
    } else {
      const entry = new Uint8Array(snapshotEntryBytes(head))
      await readTable(file, header.snapshotsOffset + at, entry)
      snapshots.push(parseSnapshotEntry(entry, header.size))
      end = at + entry.length
    }
    kept += end - before - tooMuch
    if (kept > maxSnapshotTableBytes || end > 0x7fffffff) {
      const count = header.snapshotCount - index
      if (repair !== undefined) {
        repair.entriesDropped(count)
        snapshots.pop()
        return { snapshots, bytes: before }
      }
      throw blockError('EFBIG', 'Snapshot table is too big', {
        hint: `You can force-remove all ${count} overhanging snapshots with qemu-img check -r all`,
      })
    }
  }
  return { snapshots, bytes: end }
}

/** The entry at `at` of the table, which begins with `head`, with as much extra data as is allowed. */
async function readCutEntry(
  file: IoNode,
  header: Qcow2Header,
  at: number,
  head: Uint8Array,
): Promise<Qcow2Snapshot> {
  const names = snapshotEntryBytes(head) - new ByteReader(head).u32(36) - snapshotHeaderBytes
  const entry = new Uint8Array(snapshotHeaderBytes + maxSnapshotExtraBytes + names)
  await readTable(file, header.snapshotsOffset + at, entry.subarray(0, entry.length - names))
  const namesAt = header.snapshotsOffset + at + snapshotEntryBytes(head) - names
  await readTable(file, namesAt, entry.subarray(entry.length - names))
  new DataView(entry.buffer).setUint32(36, maxSnapshotExtraBytes)
  return parseSnapshotEntry(entry, header.size)
}

/** Bytes of the entry that {@link serializeSnapshots} writes. */
function writtenEntryBytes(snapshot: Qcow2Snapshot): number {
  const { unknownExtra, idBytes, nameBytes } = snapshot
  return snapshotHeaderBytes + knownExtraBytes + unknownExtra.length + idBytes.length + nameBytes.length
}

/**
 * The snapshot table as QEMU 7.2 writes it: every entry begins at a multiple of 8 bytes and has all known
 * extra data. Pure.
 *
 * @throws EFBIG beyond 64 MiB
 */
export function serializeSnapshots(snapshots: readonly Qcow2Snapshot[]): Uint8Array {
  let end = 0
  for (const snapshot of snapshots) {
    end = Math.ceil(end / 8) * 8 + writtenEntryBytes(snapshot)
    if (end > maxSnapshotTableBytes) {
      throw ioError('EFBIG')
    }
  }
  const bytes = new Uint8Array(end)
  let at = 0
  for (const snapshot of snapshots) {
    at = Math.ceil(at / 8) * 8
    serializeEntry(snapshot, bytes.subarray(at), new DataView(bytes.buffer, at))
    at += writtenEntryBytes(snapshot)
  }
  return bytes
}

function serializeEntry(snapshot: Qcow2Snapshot, bytes: Uint8Array, view: DataView): void {
  const { idBytes, nameBytes, unknownExtra, storedVmState } = snapshot
  view.setBigUint64(0, snapshot.l1TableOffset)
  view.setUint32(8, snapshot.l1Size)
  view.setUint16(12, idBytes.length)
  view.setUint16(14, nameBytes.length)
  view.setUint32(16, snapshot.dateSeconds)
  view.setUint32(20, snapshot.dateNanoseconds)
  view.setBigUint64(24, BigInt.asUintN(64, snapshot.vmClockNanoseconds))
  // Programs that know only this field shall rather see no VM state than a part of it.
  view.setUint32(32, storedVmState <= 0xffffffffn ? Number(storedVmState) : 0)
  view.setUint32(36, knownExtraBytes + unknownExtra.length)
  view.setBigUint64(40, storedVmState)
  view.setBigUint64(48, snapshot.storedDiskSize)
  view.setBigUint64(56, snapshot.icount === undefined ? noIcount : BigInt.asUintN(64, snapshot.icount))
  const idAt = snapshotHeaderBytes + knownExtraBytes + unknownExtra.length
  bytes.set(unknownExtra, snapshotHeaderBytes + knownExtraBytes)
  bytes.set(idBytes, idAt)
  bytes.set(nameBytes, idAt + idBytes.length)
}

async function readTable(file: IoNode, offset: number, into: Uint8Array): Promise<void> {
  try {
    const wait = readPadded(file, offset, into)
    if (wait !== undefined) {
      await wait
    }
  } catch (error) {
    throw errnoError(codeOf(error), 'Failed to read snapshot table', { cause: error })
  }
}
