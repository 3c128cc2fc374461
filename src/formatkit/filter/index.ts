/** What filter drivers share. */
export { PassThrough } from './pass-through.js'
export { isSnapshotSource, type SnapshotSource } from './snapshot-source.js'
