import { defineOptions } from '../../../options/index.js'

export const blkverifyOptions = defineOptions({
  'x-raw': { type: 'string', help: '[internal use only, will be removed]' },
  'x-image': { type: 'string', help: '[internal use only, will be removed]' },
})
