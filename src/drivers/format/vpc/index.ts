import type { BlockDriver } from '../../../graph/index.js'
import { isFooter } from './footer.js'
import { vpcCreateOptions, vpcRuntimeOptions } from './options.js'

/** Virtual PC and Hyper-V disks (VHD): fixed, dynamic and differencing. */
export const vpc: BlockDriver = {
  name: 'vpc',
  kind: 'format',
  // Differencing disks alone: nodes of others say so when they are open.
  supportsBacking: true,
  options: vpcRuntimeOptions,
  strongOptions: ['force_size_calc'],
  createOptions: vpcCreateOptions,
  // A fixed disk has its footer at the end only, which probing does not see.
  probe: (head) => (isFooter(head) ? 100 : 0),
  load: () => import('./module.js'),
}
