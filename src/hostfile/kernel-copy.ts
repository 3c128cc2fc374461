import type { DriverState } from '../graph/index.js'
import type { HostFile } from '../host/index.js'
import type { IoNode } from '../io/index.js'
import type { HostFileData } from './data.js'

/** Where guest bytes stand one to one in a host file. */
export interface KernelCopyPlace {
  /** The node of the file. */
  readonly node: IoNode
  readonly data: HostFileData
  readonly file: HostFile
  /** Bytes. */
  readonly offset: number
}

/** A driver whose node the kernel may copy into directly, because no write needs to be looked at. */
export interface KernelCopyTarget {
  /** Place of `[offset, +bytes)`, or undefined if these bytes must be written through the node. */
  kernelCopyPlace(offset: number, bytes: number): KernelCopyPlace | undefined
}

/** Where the bytes of a node with this state stand, if the kernel may write them. */
export function kernelCopyPlace(
  state: DriverState | undefined,
  offset: number,
  bytes: number,
): KernelCopyPlace | undefined {
  if (state === undefined || !('kernelCopyPlace' in state)) {
    return undefined
  }
  return (state as DriverState & KernelCopyTarget).kernelCopyPlace(offset, bytes)
}
