import type { BlockLayer } from '../graph/index.js'
import type { Chardevs } from './chardev/index.js'
import type { BlockExports } from './exports.js'
import type { MonitorVersion } from './monitor.js'

/** What commands work on. */
export interface CommandContext {
  readonly layer: BlockLayer
  readonly exports: BlockExports
  readonly chardevs: Chardevs
  readonly version: MonitorVersion
  /** Ends the program when the reply is out. */
  quit(): void
  /** Names of the commands that there are. */
  commands(): readonly string[]
}
