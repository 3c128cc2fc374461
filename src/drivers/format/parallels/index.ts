import type { BlockDriver } from '../../../graph/index.js'
import { isImageHead } from './layout.js'
import { parallelsCreateOptions, parallelsRuntimeOptions } from './options.js'

/** Parallels disks (`.hdd`, `.hds`): expandable ones of both kinds. */
export const parallels: BlockDriver = {
  name: 'parallels',
  kind: 'format',
  supportsBacking: true,
  options: parallelsRuntimeOptions,
  createOptions: parallelsCreateOptions,
  probe: (head) => (isImageHead(head) ? 100 : 0),
  load: () => import('./module.js'),
}
