import { formatConformance } from './conformance.js'

formatConformance({
  format: 'vpc',
  create: { force_size: true },
  size: 6 << 20,
  grownSize: 300 << 20,
  metadata: [
    [0, 1024],
    [1536, 2048],
  ],
})

formatConformance({
  format: 'vpc',
  title: 'fixed vpc',
  create: { force_size: true, subformat: 'fixed' },
  grownSize: 1 << 20,
  growsSafely: false,
  metadata: [[262144, 262656]],
})
