import { codeOf, isBlockError, type ErrnoName, BlockError, strerror } from '../errors/index.js'
import type { Backend } from '../graph/index.js'
import { ChainStatus, chainStatus } from '../io/index.js'
import { TimeSlice } from '../sched/index.js'
import { type LongRun, throwIfAborted } from './long-run.js'
import { ReadAhead } from './read-ahead.js'
import { firstDifference, SectorScanner } from './sectors.js'

export interface CompareOptions extends LongRun {
  /** `-s`: sizes and block status must match too. */
  readonly strict?: boolean | undefined
  /** Names of the images in messages; default: the nodes' file names. */
  readonly labels?: readonly [string, string] | undefined
  /** Called when the sizes differ and the common part is equal (`Warning: Image size mismatch!`), before the rest is looked at. */
  readonly onSizeMismatch?: (() => void) | undefined
}
