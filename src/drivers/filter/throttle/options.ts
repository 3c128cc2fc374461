import { defineOptions } from '../../../options/index.js'

export const throttleOptions = defineOptions({
  'throttle-group': { type: 'string', help: 'Name of the throttle group' },
})
