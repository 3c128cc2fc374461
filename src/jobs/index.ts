/** Jobs on nodes: mirror, backup, stream, commit, create, amend. May import graph, io, formatkit and image. */

export { type AmendJobOptions, createAmendJob } from './amend.js'
export {
  type BackupOptions,
  type BitmapMode,
  bitmapModes,
  createBackup,
  startBackups,
} from './backup.js'
export {
  BlockJob,
  type BlockJobDriver,
  type BlockJobInfo,
  type BlockJobOptions,
  defaultJobId,
  type JobErrorAction,
  type JobOnError,
  onErrorWords,
} from './block-job.js'
export { type CommitOptions, createCommit } from './commit.js'
export type { CommonJobOptions } from './copying.js'
export { type CreateJobOptions, createCreateJob } from './create.js'
export { Job, type JobDriver, type JobHome, type JobInfo, type JobOptions } from './job.js'
export {
  type ActiveCommitOptions,
  createActiveCommit,
  createMirror,
  type MirrorCopyMode,
  type MirrorOptions,
  type SyncMode,
  syncModes,
} from './mirror.js'
export type { JobProgress, JobProgressInfo } from './progress.js'
export { RateLimiter } from './rate-limiter.js'
export { JobRegistry } from './registry.js'
export * from './states.js'
export { createStream, type StreamOptions } from './stream.js'
export { JobTransaction } from './transaction.js'
