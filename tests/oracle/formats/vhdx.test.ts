import { formatMatrix } from './matrix.js'

formatMatrix([
  { format: 'vhdx', options: 'block_size=1M', size: 5 << 20, qemuMaps: false },
  { format: 'vhdx', size: 20 << 20, qemuMaps: false },
  {
    format: 'vhdx',
    options: 'subformat=fixed,block_state_zero=off',
    size: (1 << 20) + 512,
    qemuMaps: false,
  },
])
