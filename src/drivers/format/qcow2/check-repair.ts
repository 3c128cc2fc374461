import { codeOf, ioError } from '../../../errors/index.js'
import type { CheckFix } from '../../../graph/index.js'
import type { IoNode } from '../../../io/index.js'
import type { OverlapCheck } from './overlap.js'

/** What a check that repairs may do. */
export interface RepairMode extends CheckFix {
  /** Protects metadata against writes to the wrong place. */
  readonly overlap: OverlapCheck | undefined
}

export const noRepair: RepairMode = { leaks: false, errors: false, overlap: undefined }

/** Writes for a repair; durable after the next flush. */
export async function writeRepair(file: IoNode, offset: number, bytes: Uint8Array): Promise<void> {
  const wait = file.write(offset, bytes.length, bytes, 0, 0)
  if (wait !== undefined) {
    await wait
  }
}

/** Writes for a repair and waits until it is durable. */
export async function writeRepairThrough(file: IoNode, offset: number, bytes: Uint8Array): Promise<void> {
  await writeRepair(file, offset, bytes)
  await flushRepair(file)
}

export async function flushRepair(file: IoNode): Promise<void> {
  const wait = file.flush()
  if (wait !== undefined) {
    await wait
  }
}

/** The bare errno of whatever was thrown, for messages that end in its text. */
export function errnoText(error: unknown): string {
  return ioError(codeOf(error)).message
}
