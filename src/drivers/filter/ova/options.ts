import { defineOptions } from '../../../options/index.js'

export const ovaOptions = defineOptions({
  'x-file': { type: 'string', help: '[internal use only, will be removed]' },
  disk: { type: 'string', help: 'name of the disk in the package, if there are several' },
})
