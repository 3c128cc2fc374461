import { formatMatrix } from './matrix.js'

formatMatrix([
  { format: 'qcow', size: 5 << 20, checks: false },
  { format: 'qcow', size: (3 << 20) + 512, checks: false, backing: { format: 'raw' } },
])
