import { defineOptions } from '../../../options/index.js'

export const blklogwritesOptions = defineOptions({
  'log-append': { type: 'bool', help: 'Append to an existing log' },
  'log-sector-size': { type: 'size', help: 'Log sector size' },
  'log-super-update-interval': {
    type: 'number',
    help: 'Log superblock update interval (# of write requests)',
  },
})
