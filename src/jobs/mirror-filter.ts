import { type BlockChild, type BlockDriver, defaultChildPermissions, Perm } from '../graph/index.js'
import type { RangeResult } from '../io/index.js'
import type { Wait } from '../sched/index.js'
import { settled } from './copying.js'
import { JobFilter, noDemands } from './filter-node.js'

export type MirrorMethod = 'copy' | 'zero' | 'discard'

/** A write of the guest, and how to do the same to the target. */
export interface MirroredWrite {
  readonly offset: number
  readonly bytes: number
  /** Carries it out on the source. */
  readonly source: () => Wait
  readonly method: MirrorMethod
  readonly flags: number
  readonly buffer: Uint8Array | undefined
  readonly bufferOffset: number
}

/** Stands on the source of a mirror: the guest's writes come through here. */
export const mirrorTop: BlockDriver = {
  name: 'mirror_top',
  kind: 'filter',
  options: {},
  load: () => ({ open: ({ node }) => new MirrorTop(node) }),
}

export class MirrorTop extends JobFilter {
  /** Gets every write while it is set. */
  onWrite: ((write: MirroredWrite) => Wait) | undefined = undefined
  /** Hears of writes that began before there was {@link onWrite}, when they are over, or have failed. */
  onEarlyWrite: ((offset: number, bytes: number) => void) | undefined = undefined
  /** The target is below the source: what is between the two is inconsistent to others. */
  isCommit = false
  /** Nothing is passed on any more. */
  stopped = false

  childPermissions(child: BlockChild, perm: number, shared: number): { perm: number; shared: number } {
    if (this.stopped) {
      return noDemands
    }
    const wanted = defaultChildPermissions(this.node, child, perm, shared)
    return this.isCommit
      ? { perm: wanted.perm & ~Perm.consistentRead, shared: wanted.shared | Perm.write }
      : wanted
  }

  override write(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    const source = (): Wait => super.write(offset, bytes, buffer, bufferOffset, flags)
    return this.#pass({ offset, bytes, source, method: 'copy', flags, buffer, bufferOffset })
  }

  override zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    const source = (): Wait => super.zero(offset, bytes, flags, out)
    return this.#pass({ offset, bytes, source, method: 'zero', flags, buffer: undefined, bufferOffset: 0 })
  }

  override discard(offset: number, bytes: number, out: RangeResult): Wait {
    const source = (): Wait => super.discard(offset, bytes, out)
    return this.#pass({
      offset,
      bytes,
      source,
      method: 'discard',
      flags: 0,
      buffer: undefined,
      bufferOffset: 0,
    })
  }

  #pass(write: MirroredWrite): Wait {
    return this.onWrite === undefined ? this.#early(write) : this.onWrite(write)
  }

  /** While this is in flight the job may begin, and be past this place when it ends. */
  async #early({ offset, bytes, source }: MirroredWrite): Promise<void> {
    try {
      await settled(source())
    } finally {
      this.onEarlyWrite?.(offset, bytes)
    }
  }
}
