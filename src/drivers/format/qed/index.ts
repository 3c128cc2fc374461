import { readU32LE } from '../../../bytes/index.js'
import type { BlockDriver } from '../../../graph/index.js'
import { headerBytes, magic } from './header.js'
import { qedCreateOptions, qedOptions } from './options.js'

/** QEMU Enhanced Disks. */
export const qed: BlockDriver = {
  name: 'qed',
  kind: 'format',
  supportsBacking: true,
  options: qedOptions,
  createOptions: qedCreateOptions,
  probe: (head) => (head.length >= headerBytes && readU32LE(head, 0) === magic ? 100 : 0),
  load: () => import('./module.js'),
}
