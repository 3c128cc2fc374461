import { formatMatrix } from './matrix.js'

// QEMU brings the backing file back around a write to a part of a zero cluster: see docs/differences.md.
formatMatrix([
  { format: 'qed', size: 5 << 20 },
  {
    format: 'qed',
    options: 'cluster_size=4k,table_size=2',
    size: (3 << 20) + 512,
    backing: { format: 'raw' },
    qemuKeeps: false,
  },
  {
    format: 'qed',
    options: 'cluster_size=1M,table_size=16',
    size: 7 << 20,
    backing: { format: 'qed' },
    qemuKeeps: false,
  },
])
