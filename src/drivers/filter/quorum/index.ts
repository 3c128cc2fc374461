import type { BlockDriver } from '../../../graph/index.js'
import { quorumOptions } from './options.js'

/** The same on several children; what most of them say counts. */
export const quorum: BlockDriver = {
  name: 'quorum',
  kind: 'format',
  composite: true,
  options: quorumOptions,
  strongOptions: ['vote-threshold', 'blkverify', 'rewrite-corrupted', 'read-pattern'],
  load: () => import('./module.js'),
}
