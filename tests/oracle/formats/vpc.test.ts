import { formatMatrix } from './matrix.js'

formatMatrix([
  { format: 'vpc', options: 'force_size=on', size: 10 << 20, checks: false },
  { format: 'vpc', size: 20 << 20, checks: false },
  { format: 'vpc', options: 'subformat=fixed,force_size=on', size: (1 << 20) + 512, checks: false },
])
