/**
 * The request path: how a read, write, zero, discard, flush or status query travels through one
 * node to its driver. May import errors, bytes, sched, host and options. Knows nothing of the graph.
 */
export * from './accounting.js'
export { BlockStatus, ChainStatus, chainStatus } from './block-status.js'
export * from './data-path.js'
export * from './debug-events.js'
export type { DirtyTracker } from './dirty-tracker.js'
export * from './flags.js'
export type { FlushPath } from './flush.js'
export { isZero } from './is-zero.js'
export { LatencyHistogram } from './latency-histogram.js'
export * from './limits.js'
export { type DetectZeroes, IoNode } from './node.js'
export { type RequestKind, RequestSet, TrackedRequest } from './requests.js'
export * from './throttle-group.js'
export * from './throttle-limits.js'
export { TimedAverage, type TimedFigures } from './timed-average.js'
