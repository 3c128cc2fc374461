import { defineOptions } from '../../../options/index.js'

export const nullOptions = defineOptions({
  size: { type: 'size', help: 'size of the null block' },
  'latency-ns': {
    type: 'number',
    help: 'nanoseconds (approximated) to wait before completing request',
  },
  'read-zeroes': { type: 'bool', help: 'return zeroes when read' },
})
