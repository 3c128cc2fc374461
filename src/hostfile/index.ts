/**
 * Files and devices of the host as block nodes: what the `file` and `host_device` drivers share.
 * Layer 4: may import errors, sched, host, options, io and graph.
 */
export { DeviceData, HostFileData, RegularFileData } from './data.js'
export { FileExtents } from './extents.js'
export { type KernelCopyPlace, type KernelCopyTarget, kernelCopyPlace } from './kernel-copy.js'
export { PermissionLocks } from './locks.js'
export { openHostFile } from './open.js'
export {
  type HostFileSettings,
  hostFileOptions,
  parseWord,
  stripProtocolPrefix,
  takeHostFileSettings,
} from './options.js'
export { createPath, isReadOnlyDevice, openPath } from './paths.js'
export { resizeDevice, resizeRegularFile } from './resize.js'
export { HostFileState } from './state.js'
