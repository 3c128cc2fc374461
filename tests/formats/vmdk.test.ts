import { formatConformance } from './conformance.js'

const metadata = [
  [0, 80],
  [512, 900],
  [10752, 13824],
] as const

formatConformance({ format: 'vmdk', size: 3 << 20, grownSize: 100 << 20, checks: true, metadata })

formatConformance({
  format: 'vmdk',
  title: 'vmdk with zeroed grains',
  create: { zeroed_grain: true },
  size: (1 << 20) + 512,
  grownSize: (40 << 20) + 1024,
  checks: true,
  metadata,
})

formatConformance({
  format: 'vmdk',
  title: 'flat vmdk',
  create: { subformat: 'monolithicFlat' },
  size: 1 << 20,
  grownSize: 3 << 20,
  checks: true,
  manyFiles: true,
  metadata: [[0, 352]],
})

formatConformance({
  format: 'vmdk',
  title: 'split sparse vmdk',
  create: { subformat: 'twoGbMaxExtentSparse' },
  size: 1 << 20,
  grownSize: 50 << 20,
  checks: true,
  manyFiles: true,
  metadata: [[0, 352]],
})
