import type { IoNode } from '../io/index.js'
import type { Wait } from '../sched/index.js'

/** Fills `into` from the image file; what lies past its end reads as zeroes. `offset` is a safe integer. */
export function readPadded(file: IoNode, offset: number, into: Uint8Array): Wait {
  const inside = Math.max(0, Math.min(into.length, file.length - offset))
  into.fill(0, inside)
  return inside === 0 ? undefined : file.read(offset, inside, into, 0, 0)
}
