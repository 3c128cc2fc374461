import { defineOptions } from '../../../options/index.js'

export const vmdkOptions = defineOptions({})

export const vmdkCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  adapter_type: {
    type: 'string',
    help: 'Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX',
  },
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: "Must be 'vmdk' if present" },
  compat6: { type: 'bool', help: 'VMDK version 6 image', default: false },
  hwversion: { type: 'string', help: 'VMDK hardware version', default: 'undefined' },
  toolsversion: { type: 'string', help: 'VMware guest tools version' },
  subformat: {
    type: 'string',
    help:
      'VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | ' +
      'twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ',
  },
  zeroed_grain: { type: 'bool', help: 'Enable efficient zero writes using the zeroed-grain GTE feature' },
})
