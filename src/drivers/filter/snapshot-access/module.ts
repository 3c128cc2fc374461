import { blockError, ioError } from '../../../errors/index.js'
import { isSnapshotSource, type SnapshotSource } from '../../../formatkit/filter/index.js'
import { type BlockChild, type DriverState, type OpenContext, Perm } from '../../../graph/index.js'
import type { DirectPath, ExtentSink, RangeResult } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'

export function open({ file }: OpenContext): SnapshotAccess {
  return new SnapshotAccess(file)
}

/** An open snapshot-access node. Read-only but for discards, which tell what is no longer needed. */
class SnapshotAccess implements DriverState, DirectPath {
  readonly direct = this
  readonly hasZeroInit = false
  readonly length: number
  readonly #file: BlockChild

  constructor(file: BlockChild) {
    this.#file = file
    this.length = file.node.length
  }

  get #source(): SnapshotSource {
    const { state } = this.#file.node
    if (!isSnapshotSource(state)) {
      throw ioError('ENOTSUP', { node: this.#file.node.name, operation: 'read' })
    }
    return state
  }

  /** The node below serves this one past its usual paths. */
  childPermissions(): { perm: number; shared: number } {
    return { perm: 0, shared: Perm.all }
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#source.readSnapshot(offset, bytes, buffer, bufferOffset)
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    return this.#source.snapshotStatus(offset, bytes, out)
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    out.bytes = bytes
    return this.#source.discardSnapshot(offset, bytes)
  }

  truncate(): never {
    throw blockError('ENOTSUP', 'Image format driver does not support resize')
  }

  exactFilename(): string {
    return this.#file.node.filename
  }

  close(): Wait {
    return undefined
  }
}
