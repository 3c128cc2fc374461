import type { BlockChild } from '../../../graph/index.js'
import { ExtentFlags, type ExtentSink, type MapPath, type WritePlan } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'

/** Requests of a fixed disk: the disk is the file without its footer. */
export class FixedPath implements MapPath {
  readonly #file: BlockChild

  constructor(file: BlockChild) {
    this.#file = file
  }

  resolveRead(offset: number, bytes: number, out: ExtentSink): Wait {
    out.data(bytes, this.#file.node, offset, ExtentFlags.recurse)
    return undefined
  }

  resolveWrite(offset: number, bytes: number, _flags: number, plan: WritePlan): Wait {
    plan.inPlace(bytes, this.#file.node, offset)
    return undefined
  }
}
