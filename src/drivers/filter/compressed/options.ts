import { defineOptions } from '../../../options/index.js'

export const compressedOptions = defineOptions({
  'x-file': { type: 'string', help: '[internal use only, will be removed]' },
  size: { type: 'size', help: 'size of the decompressed file, so that it need not be found out' },
})
