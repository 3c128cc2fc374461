import { defineOptions } from '../../../options/index.js'

export const qedOptions = defineOptions({})

export const qedCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: 'Image format of the base image' },
  cluster_size: { type: 'size', help: 'Cluster size (in bytes)', default: 65536 },
  table_size: { type: 'size', help: 'L1/L2 table size (in clusters)' },
})
