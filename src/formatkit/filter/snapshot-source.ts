import type { ExtentSink } from '../../io/index.js'
import type { Wait } from '../../sched/index.js'

/** A driver state that also shows its image as it was when the node was opened. Offsets and lengths are bytes. */
export interface SnapshotSource {
  /** @throws BlockError EACCES for what is not, or no longer, part of the snapshot */
  readSnapshot(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait
  /** The extent at `offset`. @throws BlockError EACCES */
  snapshotStatus(offset: number, bytes: number, out: ExtentSink): Wait
  /** The range of the snapshot is no longer needed: it need not be copied any more. */
  discardSnapshot(offset: number, bytes: number): Wait
}

export function isSnapshotSource(state: object | undefined): state is SnapshotSource {
  return state !== undefined && 'readSnapshot' in state
}
