import { blockError, ioError } from '../../../errors/index.js'
import {
  type BlockChild,
  type BlockNode,
  type DriverInfo,
  type DriverState,
  defaultChildPermissions,
  driverInfo,
  hasZeroInit,
  Perm,
  probeAll,
  probeBytes,
  type ReopenContext,
  type ReopenPlan,
  type TruncateOptions,
  truncateNode,
  type ZoneOperations,
} from '../../../graph/index.js'
import {
  type KernelCopyPlace,
  type KernelCopyTarget,
  kernelCopyPlace,
} from '../../../hostfile/kernel-copy.js'
import {
  afterEvent,
  type BlockLimits,
  type DirectPath,
  ExtentFlags,
  type ExtentSink,
  type IoNode,
  type RangeResult,
  ReqFlags,
} from '../../../io/index.js'
import { attempt, type Maybe, settleAll, type Wait } from '../../../sched/index.js'
import { takeWindow, type Window } from './window.js'

/** Flags a raw node understands when its file does. */
const passedZeroFlags = ReqFlags.fua | ReqFlags.mayUnmap | ReqFlags.noFallback

/** An open raw image: every request goes to the file, moved by the offset of the window. */
export class RawState implements DriverState, DirectPath, KernelCopyTarget {
  readonly direct: DirectPath = this
  readonly supportedWriteFlags: number
  readonly supportedZeroFlags: number
  readonly variableLength = true
  /** Only there if the file can tell something. */
  readonly info?: () => DriverInfo
  readonly #node: BlockNode
  readonly #file: BlockChild
  #offset: number
  #size: number | undefined
  /** Whether writes may not turn the first block into a header of another format. */
  readonly #guarded: boolean

  constructor(node: BlockNode, file: BlockChild, window: Window) {
    this.#node = node
    this.#file = file
    this.#offset = window.offset
    this.#size = window.size
    this.#guarded = node.probed
    this.supportedWriteFlags = ReqFlags.writeUnchanged | (ReqFlags.fua & file.node.supportedWriteFlags)
    this.supportedZeroFlags = ReqFlags.writeUnchanged | (passedZeroFlags & file.node.supportedZeroFlags)
    if (driverInfo(file.node) !== undefined) {
      this.info = () => driverInfo(this.#file.node) ?? {}
    }
  }

  get length(): number {
    const rest = Math.max(0, this.#file.node.length - this.#offset)
    return this.#size === undefined ? rest : Math.min(this.#size, rest)
  }

  get hasZeroInit(): boolean {
    return hasZeroInit(this.#file.node)
  }

  refreshLimits(limits: BlockLimits): void {
    if (this.#guarded) {
      // Whole sectors only, so that the guard sees the first block as a whole.
      limits.requestAlignment = probeBytes
    }
  }

  /** Raw writes and resizes its file only when its own parents do, whatever the role suggests. */
  childPermissions(child: BlockChild, perm: number, shared: number): { perm: number; shared: number } {
    const wanted = defaultChildPermissions(this.#node, child, perm, shared)
    const parents = Perm.write | Perm.resize
    return { perm: (wanted.perm & ~parents) | (perm & parents), shared: wanted.shared }
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    const debug = this.#node.childDebug
    if (debug !== undefined) {
      return afterEvent(debug, 'read_aio', () =>
        this.#file.node.read(offset + this.#offset, bytes, buffer, bufferOffset, flags),
      )
    }
    return this.#file.node.read(offset + this.#offset, bytes, buffer, bufferOffset, flags)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    if (this.#size !== undefined) {
      this.#checkRoom('write', offset, bytes)
    }
    if (this.#guarded && offset < probeBytes && bytes > 0) {
      return this.#writeGuarded(offset, bytes, buffer, bufferOffset, flags)
    }
    const debug = this.#node.childDebug
    if (debug !== undefined) {
      return afterEvent(debug, 'write_aio', () =>
        this.#file.node.write(offset + this.#offset, bytes, buffer, bufferOffset, flags),
      )
    }
    return this.#file.node.write(offset + this.#offset, bytes, buffer, bufferOffset, flags)
  }

  /** What was checked is what gets written, even if the buffer changes meanwhile. */
  #writeGuarded(
    offset: number,
    bytes: number,
    buffer: Uint8Array,
    bufferOffset: number,
    flags: number,
  ): Wait {
    const node = this.#node
    const head = buffer.slice(bufferOffset, bufferOffset + probeBytes)
    if (offset !== 0 || bytes < probeBytes || probeAll(node.layer, head, undefined) !== node.driver) {
      throw ioError('EPERM', { node: node.name, operation: 'write', offset, bytes })
    }
    const file = this.#file.node
    const rest = bytes - probeBytes
    return settleAll([
      attempt(() => file.write(this.#offset, probeBytes, head, 0, flags)),
      attempt(() => file.write(this.#offset + probeBytes, rest, buffer, bufferOffset + probeBytes, flags)),
    ])
  }

  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    this.#checkRoom('write-zeroes', offset, bytes)
    out.bytes = bytes
    return this.#file.node.writeZeroes(offset + this.#offset, bytes, flags)
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    this.#checkRoom('discard', offset, bytes)
    out.bytes = bytes
    return this.#file.node.discard(offset + this.#offset, bytes)
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    out.data(bytes, this.#file.node, offset + this.#offset, ExtentFlags.raw)
    return undefined
  }

  /** Nothing may leave a window of fixed size. */
  #checkRoom(operation: string, offset: number, bytes: number): void {
    if (this.#size !== undefined && offset + bytes > this.#size) {
      throw ioError('ENOSPC', { node: this.#node.name, operation, offset, bytes })
    }
  }

  prepareReopen({ options }: ReopenContext): ReopenPlan {
    const { offset, size } = takeWindow(options, this.#file.node.length)
    return {
      commit: () => {
        this.#offset = offset
        this.#size = size
      },
      abort: () => undefined,
    }
  }

  async truncate(length: number, how: TruncateOptions): Promise<void> {
    if (this.#size !== undefined) {
      throw blockError('ENOTSUP', 'Cannot resize fixed-size raw disks')
    }
    if (!Number.isSafeInteger(length + this.#offset)) {
      throw blockError('EINVAL', 'Disk size too large for the chosen offset')
    }
    await truncateNode(this.#file.node, length + this.#offset, how)
  }

  probeBlockSizes(): { logical: number; physical: number } | undefined {
    const sizes = this.#file.node.state?.probeBlockSizes?.()
    if (sizes === undefined || this.#offset % Math.max(sizes.logical, sizes.physical) !== 0) {
      return undefined
    }
    return sizes
  }

  probeGeometry(): { cylinders: number; heads: number; sectors: number } | undefined {
    return this.#windowed ? undefined : this.#file.node.state?.probeGeometry?.()
  }

  /** A window could begin within a zone. */
  get zones(): ZoneOperations | undefined {
    return this.#windowed ? undefined : this.#file.node.state?.zones
  }

  get inserted(): boolean {
    return this.#file.node.state?.inserted ?? true
  }

  get #windowed(): boolean {
    return this.#offset !== 0 || this.#size !== undefined
  }

  copyRangeTo(
    offset: number,
    target: IoNode,
    targetOffset: number,
    bytes: number,
  ): Maybe<number | undefined> {
    if (this.#size !== undefined && offset + bytes > this.#size) {
      throw ioError('EINVAL', { node: this.#node.name, operation: 'copy-range', offset, bytes })
    }
    return this.#file.node.state?.copyRangeTo?.(offset + this.#offset, target, targetOffset, bytes)
  }

  kernelCopyPlace(offset: number, bytes: number): KernelCopyPlace | undefined {
    this.#checkRoom('copy-range', offset, bytes)
    if (this.#guarded && offset < probeBytes) {
      return undefined
    }
    return kernelCopyPlace(this.#file.node.state, offset + this.#offset, bytes)
  }

  close(): Wait {
    return undefined
  }
}
