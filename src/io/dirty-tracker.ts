import type { Wait } from '../sched/index.js'

/** What records which parts of a node were written: its dirty bitmaps. */
export interface DirtyTracker {
  /**
   * A write, zero or discard is about to begin. May have to wait.
   *
   * @throws BlockError EPERM while there is a bitmap that must not change: the data must not either
   */
  beforeWrite(): Wait
  /** The range was written, or may have been: a write that failed has perhaps changed a part of it. */
  wrote(offset: number, bytes: number): void
  /** The length of the node has changed. */
  resized(length: number): void
}
