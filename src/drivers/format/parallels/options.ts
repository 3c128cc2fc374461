import { defineOptions } from '../../../options/index.js'

export const parallelsRuntimeOptions = defineOptions({
  'prealloc-size': { type: 'size', help: 'Preallocation size on image expansion' },
  'prealloc-mode': {
    type: 'string',
    help: 'Preallocation mode on image expansion (allowed values: falloc, truncate)',
  },
})

export const parallelsCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  cluster_size: { type: 'size', help: 'Parallels image cluster size', default: 1 << 20 },
})
