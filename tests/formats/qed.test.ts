import { formatConformance } from './conformance.js'

formatConformance({
  format: 'qed',
  grownSize: 96 << 20,
  checks: true,
  repairs: true,
  metadata: [
    [0, 80],
    [65536, 65536 + 64],
  ],
})

formatConformance({
  format: 'qed',
  title: 'qed with small clusters and tables',
  create: { cluster_size: 4096, table_size: 1 },
  size: (5 << 20) + 512,
  grownSize: 16 << 20,
  checks: true,
  repairs: true,
  metadata: [
    [0, 80],
    [4096, 8192],
  ],
})
