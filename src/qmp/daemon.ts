import type { BlockLayer } from '../graph/index.js'
import { JobRegistry } from '../jobs/index.js'
import { Chardevs, type StdioStreams } from './chardev/index.js'
import { daemonCommands } from './commands/index.js'
import { BlockExports } from './exports.js'
import { type MonitorVersion, QmpMonitor } from './monitor.js'
import { entityDef } from './schema/index.js'
import type { EventName } from './schema/types.js'

export interface StorageDaemonOptions {
  readonly layer: BlockLayer
  readonly version: MonitorVersion
  /** Called by the command `quit`. */
  readonly quit: () => void
  readonly stdio?: StdioStreams | undefined
  readonly onInternalError?: (error: unknown) => void
}

/** A block layer with a monitor, exports and character devices: what the storage daemon is but for its command line. */
export class StorageDaemon {
  readonly layer: BlockLayer
  readonly monitor: QmpMonitor
  readonly exports: BlockExports
  readonly chardevs: Chardevs
  readonly #stopEvents: () => void

  constructor({ layer, version, quit, stdio, onInternalError }: StorageDaemonOptions) {
    this.layer = layer
    this.chardevs = new Chardevs(layer.host, stdio)
    this.exports = new BlockExports(layer, (id) => this.monitor.emit('BLOCK_EXPORT_DELETED', { id }))
    this.monitor = new QmpMonitor({
      version,
      handlers: daemonCommands({
        layer,
        exports: this.exports,
        chardevs: this.chardevs,
        version,
        quit,
        commands: () => this.monitor.commands,
      }),
      ...(onInternalError === undefined ? {} : { onInternalError }),
    })
    this.#stopEvents = layer.events.on(({ event, data }) => {
      // Devices and their trays are nothing that a storage daemon has.
      if (entityDef(event)?.event === true) {
        this.monitor.emit(event as EventName, data)
      }
    })
  }

  /** Cancels jobs, ends exports and monitors. The layer is the caller's. */
  async close(): Promise<void> {
    await JobRegistry.of(this.layer).cancelAll()
    await this.exports.closeAll()
    this.#stopEvents()
    this.monitor.close()
    await this.chardevs.closeAll()
  }
}
