import type { BlockDriver } from '../../../graph/index.js'
import { vmdkCreateOptions, vmdkOptions } from './options.js'
import { probeVmdk } from './probe.js'

/** VMware disks: sparse and flat extents, split or not, stream-optimized ones, and those of ESX. */
export const vmdk: BlockDriver = {
  name: 'vmdk',
  kind: 'format',
  supportsBacking: true,
  options: vmdkOptions,
  createOptions: vmdkCreateOptions,
  probe: probeVmdk,
  load: () => import('./module.js'),
}
