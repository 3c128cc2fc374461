import { defineOptions } from '../../../options/index.js'

export const blkdebugOptions = defineOptions({
  config: { type: 'string', help: 'Path to the configuration file' },
  'x-image': { type: 'string', help: '[internal use only, will be removed]' },
  align: { type: 'size', help: 'Required alignment in bytes' },
  'max-transfer': { type: 'size', help: 'Maximum transfer size in bytes' },
  'opt-write-zero': { type: 'size', help: 'Optimum write zero alignment in bytes' },
  'max-write-zero': { type: 'size', help: 'Maximum write zero size in bytes' },
  'opt-discard': { type: 'size', help: 'Optimum discard alignment in bytes' },
  'max-discard': { type: 'size', help: 'Maximum discard size in bytes' },
})

/** One `[inject-error]` section. */
export const injectErrorOptions = defineOptions({
  event: { type: 'string' },
  state: { type: 'number' },
  iotype: { type: 'string' },
  errno: { type: 'number' },
  sector: { type: 'number' },
  once: { type: 'bool' },
  immediately: { type: 'bool' },
  'delay-ns': { type: 'number' },
})

/** One `[set-state]` section. */
export const setStateOptions = defineOptions({
  event: { type: 'string' },
  state: { type: 'number' },
  new_state: { type: 'number' },
})

export const sectionSchemas = { 'inject-error': injectErrorOptions, 'set-state': setStateOptions } as const

export type SectionName = keyof typeof sectionSchemas

export const sectionNames = ['inject-error', 'set-state'] as const satisfies readonly SectionName[]
