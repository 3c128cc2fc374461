import { defineOptions } from '../../../options/index.js'

export const copyBeforeWriteOptions = defineOptions({
  'on-cbw-error': {
    type: 'enum',
    values: ['break-guest-write', 'break-snapshot'],
    help: 'What breaks if copying fails',
  },
  'cbw-timeout': { type: 'number', help: 'Seconds that copying may take (0: any time)' },
})
