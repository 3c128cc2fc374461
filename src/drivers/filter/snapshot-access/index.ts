import { type BlockDriver, Role } from '../../../graph/index.js'

/** Shows what a copy-before-write node keeps: the image as it was when that node was opened. */
export const snapshotAccess: BlockDriver = {
  name: 'snapshot-access',
  kind: 'filter',
  options: {},
  // It has other contents than the node below, so nothing may look through it.
  fileRole: () => Role.data | Role.primary,
  load: () => import('./module.js'),
}
