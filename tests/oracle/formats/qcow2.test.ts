import { formatMatrix } from './matrix.js'

// qcow2 has larger matrices of its own; these two show that this one judges as they do.
formatMatrix([
  { format: 'qcow2', size: 4 << 20 },
  {
    format: 'qcow2',
    options: 'cluster_size=4096',
    size: (1 << 20) + 512,
    backing: { format: 'raw' },
    normalize: ({ 'backing-filename': _name, 'full-backing-filename': _full, ...info }) => info,
  },
])
