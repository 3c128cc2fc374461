import { defineOptions } from '../../../options/index.js'

export const vvfatOptions = defineOptions({
  dir: { type: 'string', help: 'Host directory to map to the vvfat device' },
  'fat-type': { type: 'number', help: 'FAT type (12, 16 or 32)' },
  floppy: { type: 'bool', help: 'Create a floppy rather than a hard disk image' },
  label: { type: 'string', help: 'Use a volume label other than QEMU VVFAT' },
  rw: { type: 'bool', help: 'Make the image writable' },
})
