import { defineOptions } from '../../../options/index.js'

export const vdiOptions = defineOptions({})

export const vdiCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  static: { type: 'bool', help: 'VDI static (pre-allocated) image', default: false },
})
