import { blockError, codeOf, errnoError } from '../../../errors/index.js'
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
}

export interface SnapshotTable {
  readonly snapshots: readonly Qcow2Snapshot[]
  /** Length of the table in bytes. */
  readonly bytes: number
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
  const icount = extra >= 24 ? reader.u64(snapshotHeaderBytes + 16) : 0xffffffffffffffffn
  return {
    l1TableOffset: reader.u64(0),
    l1Size: reader.u32(8),
    extraDataBytes: extra,
    id: reader.text(idAt, idBytes).text,
    name: reader.text(idAt + idBytes, reader.u16(14)).text,
    vmStateSize: extra >= 8 ? Number(reader.u64(snapshotHeaderBytes)) : reader.u32(32),
    dateSeconds: reader.u32(16),
    dateNanoseconds: reader.u32(20),
    vmClockNanoseconds: reader.u64(24),
    ...(icount === 0xffffffffffffffffn ? {} : { icount }),
    diskSize: extra >= 16 ? Number(reader.u64(snapshotHeaderBytes + 8)) : guestSize,
  }
}

/**
 * Reads the snapshot table. `header.snapshotCount` and `snapshotsOffset` have been checked, by
 * `parseHeader` or by the check.
 *
 * @param file the node that holds the image
 * @throws EFBIG with QEMU's text and hint
 */
export async function readSnapshotTable(file: IoNode, header: Qcow2Header): Promise<SnapshotTable> {
  const snapshots: Qcow2Snapshot[] = []
  const head = new Uint8Array(snapshotHeaderBytes)
  let end = 0
  for (let index = 0; index < header.snapshotCount; index++) {
    const at = Math.ceil(end / 8) * 8
    await readTable(file, header.snapshotsOffset + at, head)
    if (new ByteReader(head).u32(36) > maxSnapshotExtraBytes) {
      throw blockError('EFBIG', `Too much extra metadata in snapshot table entry ${index}`, {
        hint: 'You can force-remove this extra metadata with qemu-img check -r all',
      })
    }
    const entry = new Uint8Array(snapshotEntryBytes(head))
    await readTable(file, header.snapshotsOffset + at, entry)
    snapshots.push(parseSnapshotEntry(entry, header.size))
    end = at + entry.length
    if (end > maxSnapshotTableBytes) {
      const count = header.snapshotCount - index
      throw blockError('EFBIG', 'Snapshot table is too big', {
        hint: `You can force-remove all ${count} overhanging snapshots with qemu-img check -r all`,
      })
    }
  }
  return { snapshots, bytes: end }
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
