import { formatConformance } from './conformance.js'
import { createImageAt, imagePath } from './format-under-test.js'

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

formatConformance({
  format: 'vpc',
  title: 'differencing vpc',
  build: async (host) => {
    await createImageAt(host, '/base', 'vpc', { size: 6 << 20, force_size: true })
    await createImageAt(host, imagePath, 'vpc', { size: 6 << 20, backing_file: 'base' })
  },
  grownSize: 300 << 20,
  metadata: [
    [0, 1024],
    [1088, 1216],
    [1536, 3072],
  ],
})
