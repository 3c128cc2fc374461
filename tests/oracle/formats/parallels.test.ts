import { formatMatrix } from './matrix.js'

formatMatrix([
  { format: 'parallels', options: 'cluster_size=64k', size: 5 << 20 },
  { format: 'parallels', options: 'cluster_size=3k', size: (1 << 20) + 512 },
  { format: 'parallels', size: 6 << 20 },
])
