import { codeOf, errnoError, prefixed } from '../../../errors/index.js'
import { PassThrough } from '../../../formatkit/filter/index.js'
import {
  type BlockChild,
  type BlockNode,
  defaultChildPermissions,
  Perm,
  type ReopenContext,
  type ReopenPlan,
  type TruncateOptions,
  truncateNode,
} from '../../../graph/index.js'
import { type RangeResult, ReqFlags } from '../../../io/index.js'
import type { Maybe, Wait } from '../../../sched/index.js'
import { type Step, takeStep } from './step.js'

const exactly: TruncateOptions = { exact: true, preallocation: 'off', zero: false }

function ownsLength(perm: number): boolean {
  return (perm & Perm.write) !== 0 && (perm & Perm.resize) !== 0
}

/** What is known of the file while nobody else can change it. Bytes. */
interface Extent {
  /** Where the data ends: the length that users see. */
  dataEnd: number
  /** From here to the end of the file there are zeroes. */
  zeroStart: number
  /** Undefined: it must be asked for. */
  fileEnd: number | undefined
}

/** An open preallocate node. It works while its users may write and resize, and nobody else may. */
export class Preallocate extends PassThrough {
  readonly #node: BlockNode
  #step: Step
  #extent: Extent | undefined = undefined
  /** Growth under way, and where the range it zeroes starts: nothing may be written there meanwhile. */
  #growing: Promise<void> | undefined = undefined
  #growingFrom = 0

  constructor(node: BlockNode, file: BlockChild, step: Step) {
    super(file)
    this.#node = node
    this.#step = step
  }

  override get length(): number {
    return this.#extent?.dataEnd ?? this.file.node.length
  }

  childPermissions(child: BlockChild, perm: number, shared: number): { perm: number; shared: number } {
    const wanted = defaultChildPermissions(this.#node, child, perm, shared)
    return ownsLength(perm)
      ? {
          perm: wanted.perm | Perm.write | Perm.resize,
          shared: wanted.shared & ~(Perm.write | Perm.resize),
        }
      : wanted
  }

  /** The file is cut to size as long as that is still permitted. */
  preparePermissions(perm: number): Maybe<void> {
    if (this.#extent !== undefined && !ownsLength(perm)) {
      return this.#dropPreallocation(this.#extent)
    }
  }

  commitPermissions(perm: number): void {
    if (!ownsLength(perm)) {
      this.#extent = undefined
    } else if (this.#extent === undefined) {
      const { length } = this.file.node
      this.#extent = { dataEnd: length, zeroStart: length, fileEnd: length }
    }
  }

  override write(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    const end = offset + bytes
    const pass = (): Wait => this.file.node.write(offset, bytes, buffer, bufferOffset, flags)
    if (this.#extent === undefined || (end <= this.#extent.dataEnd && this.#growing === undefined)) {
      return pass()
    }
    return this.#writeBehind(offset, end, pass)
  }

  async #writeBehind(offset: number, end: number, pass: () => Wait): Promise<void> {
    await this.#prepare(offset, end, false)
    const wait = pass()
    if (wait !== undefined) {
      await wait
    }
  }

  override zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    const end = offset + bytes
    if (this.#extent === undefined || (end <= this.#extent.dataEnd && this.#growing === undefined)) {
      return super.zero(offset, bytes, flags, out)
    }
    out.bytes = bytes
    const plain = (flags & ~(ReqFlags.zeroWrite | ReqFlags.noFallback)) === 0
    return this.#zeroBehind(offset, bytes, flags & ~ReqFlags.zeroWrite, plain)
  }

  async #zeroBehind(offset: number, bytes: number, flags: number, plain: boolean): Promise<void> {
    if (await this.#prepare(offset, offset + bytes, plain)) {
      return
    }
    const wait = this.file.node.writeZeroes(offset, bytes, flags)
    if (wait !== undefined) {
      await wait
    }
  }

  /**
   * Sees to it that the file reaches beyond a write that ends at `end`. `zeroing` says that zeroes shall
   * be written; true as the result, that there are zeroes already.
   */
  async #prepare(offset: number, end: number, zeroing: boolean): Promise<boolean> {
    while (this.#growing !== undefined && end > this.#growingFrom) {
      await this.#growing
    }
    const extent = this.#extent
    if (extent === undefined || end <= extent.dataEnd) {
      return false
    }
    extent.dataEnd = end
    if (!zeroing) {
      extent.zeroStart = end
    }
    extent.fileEnd ??= this.file.node.length
    if (end <= extent.fileEnd) {
      return zeroing && offset >= extent.zeroStart
    }
    const unit = Math.max(this.file.node.limits.requestAlignment, 1)
    const from = Math.ceil((zeroing ? Math.min(offset, extent.fileEnd) : extent.fileEnd) / unit) * unit
    const align = Math.max(this.#step.align, unit)
    const to = Math.ceil((Math.max(from, end) + this.#step.size) / align) * align
    this.#growingFrom = from
    this.#growing = this.#grow(extent, from, to).finally(() => {
      this.#growing = undefined
    })
    await this.#growing
    return zeroing && extent.fileEnd === to && from <= offset
  }

  /** A file that cannot grow like this grows by the write itself. */
  async #grow(extent: Extent, from: number, to: number): Promise<void> {
    try {
      const wait = this.file.node.writeZeroes(from, to - from, ReqFlags.noFallback)
      if (wait !== undefined) {
        await wait
      }
      extent.fileEnd = to
    } catch {
      extent.fileEnd = undefined
    }
  }

  override async truncate(length: number, how: TruncateOptions): Promise<void> {
    const extent = this.#extent
    if (extent !== undefined && length > extent.dataEnd) {
      extent.fileEnd ??= this.file.node.length
      if (how.preallocation === 'falloc' && length <= extent.fileEnd) {
        extent.dataEnd = length
        return
      }
      if (how.preallocation !== 'falloc') {
        try {
          await this.#cut(extent)
        } catch (error) {
          throw prefixed(error, 'preallocate-filter: failed to drop write-zero preallocation: ')
        }
      }
    }
    await truncateNode(this.file.node, length, how)
    if (extent !== undefined) {
      extent.dataEnd = extent.zeroStart = extent.fileEnd = length
    }
  }

  async #cut(extent: Extent): Promise<void> {
    const fileEnd = extent.fileEnd ?? this.file.node.length
    if (extent.dataEnd < fileEnd) {
      extent.fileEnd = undefined
      await truncateNode(this.file.node, extent.dataEnd, exactly)
    }
    extent.fileEnd = extent.dataEnd
  }

  async #dropPreallocation(extent: Extent): Promise<void> {
    try {
      await this.#cut(extent)
    } catch (error) {
      throw errnoError(codeOf(error), 'Failed to drop preallocation', { cause: error })
    }
  }

  prepareReopen({ options }: ReopenContext): ReopenPlan {
    const step = takeStep(options, this.file)
    return {
      commit: () => {
        this.#step = step
      },
      abort: () => undefined,
    }
  }

  /** What was preallocated is given back; if that fails, the file is merely longer than it need be. */
  override close(): Wait {
    const extent = this.#extent
    return extent === undefined ? undefined : this.#cut(extent).catch(() => undefined)
  }
}
