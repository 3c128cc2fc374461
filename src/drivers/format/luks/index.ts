import type { BlockDriver } from '../../../graph/index.js'
import { luksAmendOptionSchema, luksCreateSchema, luksRuntimeOptions } from './options.js'

const magic = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe, 0, 1]

/** Linux Unified Key Setup, version 1: a header with key slots, then the enciphered disk. */
export const luks: BlockDriver = {
  name: 'luks',
  kind: 'format',
  options: luksRuntimeOptions,
  strongOptions: ['key-secret'],
  createOptions: luksCreateSchema,
  amendOptions: luksAmendOptionSchema,
  probe: (head) => (magic.every((byte, i) => head[i] === byte) ? 100 : 0),
  load: () => import('./module.js'),
}
