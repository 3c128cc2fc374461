import { formatConformance } from './conformance.js'

formatConformance({
  format: 'parallels',
  create: { cluster_size: 16384 },
  open: { 'prealloc-size': 1 << 20 },
  size: (1 << 20) + 512,
  grownSize: 96 << 20,
  checks: true,
  repairs: true,
  metadata: [
    [0, 64],
    [64, 256],
  ],
})

formatConformance({
  format: 'parallels',
  title: 'parallels with clusters of 1.5 KiB',
  create: { cluster_size: 1536 },
  open: { 'prealloc-size': 0 },
  grownSize: 1 << 20,
  checks: true,
  repairs: true,
  metadata: [
    [0, 64],
    [64, 600],
  ],
})
