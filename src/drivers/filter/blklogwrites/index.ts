import type { BlockDriver } from '../../../graph/index.js'
import { blklogwritesOptions } from './options.js'

/** Records every write to a file in a log that Linux's dm-log-writes tools replay. */
export const blklogwrites: BlockDriver = {
  name: 'blklogwrites',
  kind: 'filter',
  options: blklogwritesOptions,
  strongOptions: ['log-append', 'log-sector-size'],
  load: () => import('./module.js'),
}
