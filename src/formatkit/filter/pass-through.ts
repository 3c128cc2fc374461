import {
  type BlockChild,
  type DriverInfo,
  type DriverState,
  driverInfo,
  hasZeroInit,
  type TruncateOptions,
  truncateNode,
} from '../../graph/index.js'
import { type DirectPath, ExtentFlags, type ExtentSink, type RangeResult, ReqFlags } from '../../io/index.js'
import type { Wait } from '../../sched/index.js'

const passedZeroFlags = ReqFlags.fua | ReqFlags.mayUnmap | ReqFlags.noFallback

/**
 * A filter that passes everything on to its `file` child. A filter driver extends it and overrides
 * what it does otherwise.
 */
export class PassThrough implements DriverState, DirectPath {
  readonly direct: DirectPath = this
  readonly variableLength = true
  readonly supportedWriteFlags: number
  readonly supportedZeroFlags: number
  /** Only there if the image can tell something. */
  readonly info?: () => DriverInfo
  protected readonly file: BlockChild

  constructor(file: BlockChild) {
    this.file = file
    this.supportedWriteFlags = ReqFlags.writeUnchanged | (ReqFlags.fua & file.node.supportedWriteFlags)
    this.supportedZeroFlags = ReqFlags.writeUnchanged | (passedZeroFlags & file.node.supportedZeroFlags)
    if (driverInfo(file.node) !== undefined) {
      this.info = () => driverInfo(this.file.node) ?? {}
    }
  }

  get length(): number {
    return this.file.node.length
  }

  get hasZeroInit(): boolean {
    return hasZeroInit(this.file.node)
  }

  read(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.file.node.read(offset, bytes, buffer, bufferOffset, flags)
  }

  write(offset: number, bytes: number, buffer: Uint8Array, bufferOffset: number, flags: number): Wait {
    return this.file.node.write(offset, bytes, buffer, bufferOffset, flags)
  }

  zero(offset: number, bytes: number, flags: number, out: RangeResult): Wait {
    out.bytes = bytes
    return this.file.node.writeZeroes(offset, bytes, flags & ~ReqFlags.zeroWrite)
  }

  discard(offset: number, bytes: number, out: RangeResult): Wait {
    out.bytes = bytes
    return this.file.node.discard(offset, bytes)
  }

  status(offset: number, bytes: number, _want: 'zero' | 'allocation', out: ExtentSink): Wait {
    out.data(bytes, this.file.node, offset, ExtentFlags.raw)
    return undefined
  }

  truncate(length: number, how: TruncateOptions): Wait {
    return truncateNode(this.file.node, length, how)
  }

  close(): Wait {
    return undefined
  }
}
