import { formatMatrix } from './matrix.js'

formatMatrix([
  { format: 'vdi', size: 5 << 20, sameLayout: false, sameZeroes: false },
  { format: 'vdi', options: 'static=on', size: (3 << 20) + 512 },
])
