import type { BlockDriver } from '../../../graph/index.js'
import { preallocateOptions } from './options.js'

/** Grows a file in large steps ahead of what is written to it, and cuts it to size at the end. */
export const preallocate: BlockDriver = {
  name: 'preallocate',
  kind: 'filter',
  options: preallocateOptions,
  mutableOptions: ['prealloc-align', 'prealloc-size'],
  load: () => import('./module.js'),
}
