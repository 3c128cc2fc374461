import type { Backend, DirtyBitmap } from '../graph/index.js'
import { ChainStatus, chainStatus } from '../io/index.js'
import { AllocationState, type MetaContext, MetaId, type StatusSink } from '../nbd/index.js'
import { TimeSlice } from '../sched/index.js'

/** Milliseconds after which the rest of a range is left for the client to ask again. */
const patience = 200

/** Asks for the status of the chain, extent by extent, until the sink has enough or time is up. */
async function describeChain(
  backend: Backend,
  offset: number,
  bytes: number,
  want: 'zero' | 'allocation',
  out: StatusSink,
  flagsOf: (status: ChainStatus) => number,
): Promise<void> {
  const status = new ChainStatus()
  const slice = new TimeSlice()
  const end = offset + bytes
  const stopAt = Date.now() + patience
  for (let at = offset; at < end; ) {
    const { node } = backend
    await chainStatus(node, undefined, at, end - at, want, status)
    if (status.bytes === 0) {
      // The node became shorter than its export.
      out.add(end - at, AllocationState.hole | AllocationState.zero)
      return
    }
    if (!out.add(status.bytes, flagsOf(status)) || Date.now() > stopAt) {
      return
    }
    at += status.bytes
    const pause = slice.breathe()
    if (pause !== undefined) {
      await pause
    }
  }
}

/** `base:allocation`: what is a hole, and what reads as zeroes. */
export function allocationContext(backend: Backend): MetaContext {
  return {
    name: 'base:allocation',
    id: MetaId.baseAllocation,
    describe: (offset, bytes, out) =>
      describeChain(
        backend,
        offset,
        bytes,
        'zero',
        out,
        (status) => (status.data ? 0 : AllocationState.hole) | (status.zero ? AllocationState.zero : 0),
      ),
  }
}

/** `qemu:allocation-depth`: the layer that holds a range, from 1 on; 0: none. */
export function depthContext(backend: Backend): MetaContext {
  return {
    name: 'qemu:allocation-depth',
    id: MetaId.allocationDepth,
    describe: (offset, bytes, out) =>
      describeChain(backend, offset, bytes, 'allocation', out, (status) =>
        status.allocated ? status.depth + 1 : 0,
      ),
  }
}

/** `qemu:dirty-bitmap:NAME`: 1 for what the bitmap has recorded. `index`: its place among the export's bitmaps. */
export function bitmapContext(bitmap: DirtyBitmap, index: number): MetaContext {
  return {
    name: `qemu:dirty-bitmap:${bitmap.name ?? ''}`,
    id: MetaId.dirtyBitmap + index,
    describe: (offset, bytes, out) => {
      const end = offset + bytes
      let at = offset
      while (at < end) {
        const area = bitmap.nextDirtyArea(at, end)
        const from = area?.offset ?? end
        if ((from > at && !out.add(from - at, 0)) || area === undefined || !out.add(area.bytes, 1)) {
          return undefined
        }
        at = from + area.bytes
      }
      return undefined
    },
  }
}
