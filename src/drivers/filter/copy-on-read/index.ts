import type { BlockDriver } from '../../../graph/index.js'
import { copyOnReadOptions } from './options.js'

/** Copies what is read from backing files into the image. */
export const copyOnRead: BlockDriver = {
  name: 'copy-on-read',
  kind: 'filter',
  options: copyOnReadOptions,
  load: () => import('./module.js'),
}
