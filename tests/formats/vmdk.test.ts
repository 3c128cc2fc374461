import { formatConformance } from './conformance.js'

const metadata = [
  [0, 80],
  [512, 900],
  [10752, 13824],
] as const

formatConformance({ format: 'vmdk', size: 3 << 20, checks: true, metadata })

formatConformance({
  format: 'vmdk',
  title: 'vmdk with zeroed grains',
  create: { zeroed_grain: true },
  size: (1 << 20) + 512,
  checks: true,
  metadata,
})

formatConformance({
  format: 'vmdk',
  title: 'flat vmdk',
  create: { subformat: 'monolithicFlat' },
  size: 1 << 20,
  checks: true,
  manyFiles: true,
  metadata: [[0, 352]],
})

formatConformance({
  format: 'vmdk',
  title: 'split sparse vmdk',
  create: { subformat: 'twoGbMaxExtentSparse' },
  size: 1 << 20,
  checks: true,
  manyFiles: true,
  metadata: [[0, 352]],
})
