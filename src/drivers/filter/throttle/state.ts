import { PassThrough } from '../../../formatkit/filter/index.js'
import type { BlockChild, BlockLayer, ReopenContext, ReopenPlan } from '../../../graph/index.js'
import { type RangeResult, ReqFlags, type ThrottleDirection, type ThrottleMember } from '../../../io/index.js'
import type { Wait } from '../../../sched/index.js'
import { takeGroup } from './group-option.js'

/** An open throttle node: a member of its group. Flushes are free. */
export class ThrottleNode extends PassThrough {
  readonly #layer: BlockLayer
  #member: ThrottleMember
  /** Drained sections that hold the limits off. */
  #drained = 0

  constructor(file: BlockChild, layer: BlockLayer, group: string) {
    super(file)
    this.#layer = layer
    this.#member = layer.throttleGroups.join(group)
  }

  #admitted(direction: ThrottleDirection, bytes: number, request: () => Wait): Wait {
    const wait = this.#member.admit(direction, bytes)
    return wait === undefined ? request() : wait.then(request)
  }

  override read(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    return this.#admitted('read', bytes, () => super.read(offset, bytes, buffer, bufferOffset, flags))
  }

  override write(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    return this.#admitted('write', bytes, () => super.write(offset, bytes, buffer, bufferOffset, flags))
  }

  writeCompressed(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number): Wait {
    return this.#admitted('write', bytes, () =>
      this.file.node.write(offset, bytes, buffer, bufferOffset, ReqFlags.writeCompressed),
    )
  }

  override zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    return this.#admitted('write', bytes, () => super.zero(offset, bytes, flags, out))
  }

  override discard(offset: number, bytes: number, out: RangeResult): Wait {
    return this.#admitted('write', bytes, () => super.discard(offset, bytes, out))
  }

  prepareReopen({ options }: ReopenContext): ReopenPlan {
    const group = takeGroup(this.#layer, options)
    return {
      commit: () => {
        if (group !== this.#member.group.id) {
          this.#layer.throttleGroups.leave(this.#member)
          this.#member = this.#layer.throttleGroups.join(group)
          for (let section = 0; section < this.#drained; section++) {
            this.#member.liftLimits()
          }
        }
      },
      abort: () => undefined,
    }
  }

  drainedBegin(): void {
    this.#drained++
    this.#member.liftLimits()
  }

  drainedEnd(): void {
    this.#drained--
    this.#member.restoreLimits()
  }

  override close(): Wait {
    this.#layer.throttleGroups.leave(this.#member)
    return undefined
  }
}
