import { formatConformance } from './conformance.js'

formatConformance({
  format: 'qcow2',
  create: { cluster_size: 4096 },
  grownSize: 1 << 20,
  checks: true,
  metadata: [[0, 28672]],
})

formatConformance({
  format: 'qcow2',
  title: 'qcow2 of version 2',
  create: { compat: '0.10', cluster_size: 512 },
  size: 65536,
  grownSize: 131072,
  checks: true,
})
