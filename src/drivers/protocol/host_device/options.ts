import { defineOptions } from '../../../options/index.js'

/** Options of drivers that cannot make a new target, only prepare an existing one. */
export const deviceCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  preallocation: { type: 'string', help: 'Preallocation mode (allowed values: off)' },
})
