import type { Maybe, Wait } from '../sched/index.js'
import type { HostFile } from './files.js'

/** A thread of the platform that makes system calls on behalf of the block layer. */
export interface HostThread {
  readonly name: string
  /** The operating system's number of the thread, where it has one. */
  readonly id: number | undefined
  /**
   * The same open file with its transfers, flushes and changes of size and allocation made by this
   * thread, one after the other in the order of the calls. What only asks (sizes, extents, locks)
   * is answered at once as before. `file` must have nothing in flight and is not to be used for
   * transfers while its twin is; closing the twin closes it. Undefined: not a file of this platform.
   */
  adopt(file: HostFile): HostFile | undefined
  /** Ends the thread once everything in flight is done. Files it adopted must have been given up. */
  stop(): Wait
}

/** Where threads come from. */
export interface HostThreads {
  /** @throws BlockError ENOTSUP where threads cannot be had */
  start(name: string): Maybe<HostThread>
}
