import { readU32BE } from '../../../bytes/index.js'
import type { BlockDriver } from '../../../graph/index.js'
import { headerBytes, magic } from './header.js'
import { qcowCreateOptions, qcowOptions } from './options.js'

/** QEMU copy on write, version 1. */
export const qcow: BlockDriver = {
  name: 'qcow',
  kind: 'format',
  supportsBacking: true,
  options: qcowOptions,
  strongOptions: ['encrypt.key-secret'],
  createOptions: qcowCreateOptions,
  probe: (head) =>
    head.length >= headerBytes && readU32BE(head, 0) === magic && readU32BE(head, 4) === 1 ? 100 : 0,
  load: () => import('./module.js'),
}
