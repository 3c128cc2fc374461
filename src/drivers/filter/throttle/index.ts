import type { BlockDriver } from '../../../graph/index.js'
import { throttleOptions } from './options.js'

/** Keeps requests within the limits of a throttle group, which several nodes may share. */
export const throttle: BlockDriver = {
  name: 'throttle',
  kind: 'filter',
  options: throttleOptions,
  strongOptions: ['throttle-group'],
  mutableOptions: ['throttle-group'],
  load: () => import('./module.js'),
}
