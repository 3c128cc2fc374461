import type { BlockDriver } from '../../../graph/index.js'
import { hasSignature } from './header.js'
import { vdiCreateOptions, vdiOptions } from './options.js'

/** VirtualBox disks (VDI 1.1): dynamic and static. */
export const vdi: BlockDriver = {
  name: 'vdi',
  kind: 'format',
  options: vdiOptions,
  createOptions: vdiCreateOptions,
  probe: (head) => (hasSignature(head) ? 100 : 0),
  load: () => import('./module.js'),
}
