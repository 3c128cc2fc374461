/** What filter drivers share. */
export { type BlockCopier, type CopyFault, isBlockCopier } from './block-copier.js'
export { PassThrough } from './pass-through.js'
export { isSnapshotSource, type SnapshotSource } from './snapshot-source.js'
