import { formatConformance } from './conformance.js'

const metadata = [
  [64, 512],
  [512, 1024],
] as const

formatConformance({ format: 'vdi', size: 3 << 20, grownSize: 200 << 20, checks: true, metadata })

formatConformance({
  format: 'vdi',
  title: 'static vdi',
  create: { static: true },
  size: (1 << 20) + 512,
  grownSize: 5 << 20,
  checks: true,
  metadata,
})
