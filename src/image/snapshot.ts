import { prefixed } from '../errors/index.js'
import {
  applySnapshot,
  type Backend,
  type BlockNode,
  createSnapshot,
  listSnapshots,
  loadSnapshot,
  loadSnapshotByIdOrName,
  removeSnapshot,
  type SnapshotInfo,
} from '../graph/index.js'

/** A snapshot as a user names it: by id or else name, or by what both shall be. */
export type SnapshotWanted = string | { readonly id?: string; readonly name?: string }

export interface SnapshotOptions {
  /** Empty or absent: the next free number. */
  readonly id?: string
  /** Cut to 255 bytes, as QEMU does. */
  readonly name: string
  /** Milliseconds since 1970; default: now. */
  readonly date?: number
  /** Guest time in nanoseconds; default 0. */
  readonly vmClock?: bigint
  /** Bytes of VM state that have been written before; default 0. */
  readonly vmStateSize?: number
  /** Instruction count; default 0, which is what `qemu-img` records. */
  readonly icount?: bigint
}

const maxNameBytes = 255

/** `name` cut to what QEMU keeps of it; a character is not cut in two. */
function cutName(name: string): string {
  const bytes = new TextEncoder().encode(name)
  if (bytes.length <= maxNameBytes) {
    return name
  }
  let end = maxNameBytes
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) {
    end--
  }
  return new TextDecoder().decode(bytes.subarray(0, end))
}

/**
 * Records the present state of an image, which must be open for writing, as an internal snapshot.
 *
 * @throws BlockError `ENOTSUP` for formats without, or the driver's own
 */
export async function snapshotImage(image: Backend, options: SnapshotOptions): Promise<void> {
  const date = options.date ?? Date.now()
  const seconds = Math.floor(date / 1000)
  await createSnapshot(image.node, {
    id: options.id ?? '',
    name: cutName(options.name),
    dateSeconds: seconds,
    dateNanoseconds: Math.floor((date - seconds * 1000) * 1000) * 1000,
    vmClockNanoseconds: options.vmClock ?? 0n,
    vmStateSize: options.vmStateSize ?? 0,
    icount: options.icount ?? 0n,
  })
}

/** Returns an image to a snapshot, given by id or name. @throws BlockError `Failed to load snapshot: …` */
export async function snapshotApply(image: Backend, idOrName: string): Promise<void> {
  await applySnapshot(image.node, idOrName)
}

/** The first snapshot called exactly `name`. */
export function snapshotFind(image: Backend, name: string): SnapshotInfo | undefined {
  return listSnapshots(image.node)?.find((snapshot) => snapshot.name === name)
}

/** Removes the first snapshot called exactly `name`. Returns whether there was one. */
export async function snapshotRemove(image: Backend, name: string): Promise<boolean> {
  const found = snapshotFind(image, name)
  if (found === undefined) {
    return false
  }
  await removeSnapshot(image.node, found.id, found.name)
  return true
}

/** The snapshots of an image, oldest first; none if the format has no such thing. */
export function snapshotList(image: Backend): readonly SnapshotInfo[] {
  return listSnapshots(image.node) ?? []
}

/**
 * Shows a snapshot of an image that is open read-only, instead of its present state, until it is closed.
 *
 * @throws BlockError `Failed to load snapshot: …`
 */
export async function showSnapshot(node: BlockNode, wanted: SnapshotWanted): Promise<void> {
  try {
    if (typeof wanted === 'string') {
      await loadSnapshotByIdOrName(node, wanted)
    } else {
      await loadSnapshot(node, wanted.id, wanted.name)
    }
  } catch (error) {
    throw prefixed(error, 'Failed to load snapshot: ')
  }
}
