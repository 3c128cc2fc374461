import { defineOptions } from '../../../options/index.js'

export const fileCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  nocow: { type: 'bool', help: 'Turn off copy-on-write (valid only on btrfs)' },
  preallocation: {
    type: 'string',
    help: 'Preallocation mode (allowed values: off, falloc, full)',
  },
  extent_size_hint: { type: 'size', help: 'Extent size hint for the image file, 0 to disable' },
})
