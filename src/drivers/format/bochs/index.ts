import type { BlockDriver } from '../../../graph/index.js'
import { isBochs } from './header.js'

/** Growing redologs of Bochs, read-only. */
export const bochs: BlockDriver = {
  name: 'bochs',
  kind: 'format',
  options: {},
  probe: (head) => (isBochs(head) ? 100 : 0),
  load: () => import('./module.js'),
}
