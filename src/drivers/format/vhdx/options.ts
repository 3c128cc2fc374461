import { defineOptions } from '../../../options/index.js'

export const vhdxCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size; max of 64TB.' },
  backing_file: { type: 'string', help: 'File name of the parent, which makes a differencing disk' },
  backing_fmt: { type: 'string', help: "Must be 'vhdx' if present" },
  log_size: { type: 'size', default: 1048576, help: 'Log size; min 1MB.' },
  block_size: {
    type: 'size',
    default: 0,
    help: 'Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.',
  },
  subformat: {
    type: 'string',
    help: "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
  },
  block_state_zero: {
    type: 'bool',
    help:
      "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when " +
      "using 'qemu-img convert' with subformat=dynamic.",
  },
})
