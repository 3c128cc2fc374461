import { Autoclear } from './constants.js'
import { type BitmapsExtension, type Qcow2Header, serializeHeader } from './header.js'
import type { Qcow2Metadata } from './metadata.js'

/** Bytes that reach a disk together or not at all. */
const sectorBytes = 512

/** What the header says of bitmaps. */
interface BitmapsState {
  readonly bitmaps: BitmapsExtension | undefined
  readonly autoclear: number
}

function stateOf(header: Qcow2Header, bitmaps: BitmapsExtension | undefined, bit: boolean): BitmapsState {
  const others = header.autoclear & ~Autoclear.bitmaps
  return { bitmaps, autoclear: (bit ? others | Autoclear.bitmaps : others) >>> 0 }
}

/** The header's bytes if it said `state`. @throws BlockError ENOSPC */
function bytesWith(header: Qcow2Header, state: BitmapsState): Uint8Array {
  return serializeHeader({ ...header, ...state })
}

/**
 * Plans to have the header point to another bitmap directory, or to none. Changes nothing yet.
 *
 * A header that changes in several sectors might be torn by a crash, and a feature bit from one and a
 * directory from the other time must not come together: then the bit goes first and comes last, and
 * without it nobody looks at bitmaps.
 *
 * @returns carries it out. What the new header points to must be durable before, and the header is
 *   afterwards. If it fails, nobody knows which header is in the file; in memory it is the old one
 * @throws BlockError ENOSPC if the header does not fit its cluster
 */
export function planBitmapsHeader(
  meta: Qcow2Metadata,
  bitmaps: BitmapsExtension | undefined,
): () => Promise<void> {
  const { header } = meta
  const bitBefore = (header.autoclear & Autoclear.bitmaps) !== 0
  const bitAfter = bitmaps !== undefined
  const before = stateOf(header, header.bitmaps, bitBefore)
  const after = stateOf(header, bitmaps, bitAfter)
  const inSteps = sectorsChanged(bytesWith(header, before), bytesWith(header, after)) > 1
  const steps = [after]
  if (inSteps && bitAfter) {
    steps.unshift(stateOf(header, bitmaps, false))
  }
  if (inSteps && bitBefore) {
    steps.unshift(stateOf(header, header.bitmaps, false))
  }
  return async () => {
    try {
      for (const step of steps) {
        Object.assign(header, step)
        await meta.writeHeader()
      }
    } catch (error) {
      Object.assign(header, inSteps ? stateOf(header, before.bitmaps, false) : before)
      throw error
    }
  }
}

function sectorsChanged(old: Uint8Array, next: Uint8Array): number {
  let changed = 0
  for (let at = 0; at < old.length; at += sectorBytes) {
    const end = Math.min(at + sectorBytes, old.length)
    for (let i = at; i < end; i++) {
      if (old[i] !== next[i]) {
        changed++
        break
      }
    }
  }
  return changed
}
