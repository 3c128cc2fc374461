import type { BlockDriver } from '../../../graph/index.js'
import { isFixedFooter, isFooter } from './footer.js'
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
  // The name has to say so, too: what a guest writes at the end of its raw disk must not decide.
  probeTail: (tail, length, filename) => /\.vhd$/i.test(filename) && isFixedFooter(tail, length),
  load: () => import('./module.js'),
}
