import type { CommandContext } from '../context.js'
import type { CommandHandlers } from '../handlers.js'
import { bitmapCommands } from './bitmaps.js'
import { chardevCommands } from './chardevs.js'
import { controlCommands } from './control.js'
import { exportCommands } from './exports.js'
import { jobCommands } from './jobs.js'
import { nodeCommands } from './nodes.js'
import { objectCommands } from './objects.js'
import { queryCommands } from './queries.js'
import { snapshotCommands } from './snapshots.js'
import { jobStartCommands } from './start-jobs.js'
import { transactionCommands } from './transactions.js'

/** Every command of the storage daemon. */
export function daemonCommands(context: CommandContext): CommandHandlers {
  return {
    ...bitmapCommands(context),
    ...chardevCommands(context),
    ...controlCommands(context),
    ...exportCommands(context),
    ...jobCommands(context),
    ...jobStartCommands(context),
    ...nodeCommands(context),
    ...objectCommands(context),
    ...queryCommands(context),
    ...snapshotCommands(context),
    ...transactionCommands(context),
  }
}
