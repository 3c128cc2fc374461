import { formatConformance } from './conformance.js'

formatConformance({
  format: 'qcow',
  metadata: [
    [0, 560],
    [4096, 8192],
  ],
})

formatConformance({
  format: 'qcow',
  title: 'qcow with small clusters',
  // Has the layout of an image over a backing file, without one.
  create: { backing_file: 'fat:' },
  size: 65536,
})
