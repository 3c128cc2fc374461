import type { BlockDriver } from '../../../graph/index.js'

/** Stores what is written compressed; the image below must be of a format that can. */
export const compress: BlockDriver = {
  name: 'compress',
  kind: 'filter',
  options: {},
  load: () => import('./module.js'),
}
