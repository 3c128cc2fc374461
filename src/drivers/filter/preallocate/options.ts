import { defineOptions } from '../../../options/index.js'

export const preallocateOptions = defineOptions({
  'prealloc-align': { type: 'size', help: 'on preallocation, align file length to this number, default 1M' },
  'prealloc-size': { type: 'size', help: 'how much to preallocate, default 128M' },
})
