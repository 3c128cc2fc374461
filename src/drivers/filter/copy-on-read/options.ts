import { defineOptions } from '../../../options/index.js'

export const copyOnReadOptions = defineOptions({
  bottom: { type: 'string', help: 'Lowest node whose data is copied' },
})
