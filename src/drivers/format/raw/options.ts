import { defineOptions } from '../../../options/index.js'

export const rawOptions = defineOptions({
  offset: { type: 'size', help: 'offset in the disk where the image starts' },
  size: { type: 'size', help: 'virtual disk size' },
})

export const rawCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
})
