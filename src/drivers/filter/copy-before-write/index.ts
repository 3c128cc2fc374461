import type { BlockDriver } from '../../../graph/index.js'
import { copyBeforeWriteOptions } from './options.js'

/** Copies what is about to be overwritten to another node first. */
export const copyBeforeWrite: BlockDriver = {
  name: 'copy-before-write',
  kind: 'filter',
  options: copyBeforeWriteOptions,
  load: () => import('./module.js'),
}
