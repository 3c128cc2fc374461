/** The public interface of the library. May import everything below it. */
export * from './image.js'
export * from './jobs.js'
export * from './library.js'
export { type ConnectOptions, connectMonitor, type QmpAddress } from './qmp.js'
export * from './serve.js'
export type { RangeOptions } from './streams.js'
