/** The QMP monitor and what the storage daemon is made of. May import everything below the tools. */
export { attachMonitor } from './attach.js'
export type { CharDevice } from './chardev/index.js'
export { Chardevs, parseChardev, type StdioStreams } from './chardev/index.js'
export { type ConnectQmpOptions, QmpClient, type QmpGreeting, type QmpMethods } from './client.js'
export { StorageDaemon, type StorageDaemonOptions } from './daemon.js'
export { BlockExports } from './exports.js'
export { introspect } from './introspect.js'
export { JsonNumber, type WireObject, type WireValue } from './json-number.js'
export { JsonStream } from './json-stream.js'
export { MetricsServer, metricsText } from './metrics.js'
export { type MonitorOptions, type MonitorVersion, QmpMonitor } from './monitor.js'
export { entities, entityDef } from './schema/index.js'
export type {
  ArgumentsOf,
  CommandName,
  EventDataOf,
  EventName,
  QmpEvent,
  ReturnOf,
  TypeOf,
} from './schema/types.js'
export { QmpSession, type QmpTransport } from './session.js'
export { InputChecker } from './validate.js'
export { wireText } from './wire-text.js'
