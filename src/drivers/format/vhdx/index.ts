import type { BlockDriver } from '../../../graph/index.js'
import { vhdxCreateOptions } from './options.js'

const signature = [0x76, 0x68, 0x64, 0x78, 0x66, 0x69, 0x6c, 0x65]

/** Hyper-V's VHDX: fixed, dynamic and differencing. */
export const vhdx: BlockDriver = {
  name: 'vhdx',
  kind: 'format',
  // Differencing disks alone: nodes of others say so when they are open.
  supportsBacking: true,
  options: {},
  createOptions: vhdxCreateOptions,
  probe: (head) => (signature.every((byte, i) => head[i] === byte) ? 100 : 0),
  load: () => import('./module.js'),
}
