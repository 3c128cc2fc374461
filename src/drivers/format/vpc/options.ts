import { defineOptions } from '../../../options/index.js'

export const vpcRuntimeOptions = defineOptions({
  force_size_calc: {
    type: 'string',
    help:
      'Force disk size calculation to use either CHS geometry, or use the disk current_size specified ' +
      'in the VHD footer. {chs, current_size}',
  },
})

export const vpcCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  backing_file: { type: 'string', help: 'File name of the parent, which makes a differencing disk' },
  backing_fmt: { type: 'string', help: "Must be 'vpc' if present" },
  subformat: {
    type: 'string',
    help: 'Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ',
  },
  force_size: {
    type: 'bool',
    help:
      'Force disk size calculation to use the actual size specified, rather than using the nearest ' +
      'CHS-based calculation',
  },
})
