import { formatConformance } from './conformance.js'
import { createImageAt, imagePath } from './format-under-test.js'

formatConformance({
  format: 'vhdx',
  create: { block_size: 1 << 20 },
  size: 3 << 20,
  grownSize: 100 << 20,
  checks: true,
  metadata: [
    [0x10000, 0x10050],
    [0x20000, 0x20050],
    [0x30000, 0x30050],
    [0x200000, 0x200018],
    [0x300000, 0x3000c0],
    [0x310000, 0x310028],
  ],
})

formatConformance({
  format: 'vhdx',
  title: 'fixed vhdx',
  create: { block_size: 1 << 20, subformat: 'fixed', block_state_zero: false },
  grownSize: 3 << 20,
  checks: true,
})

formatConformance({
  format: 'vhdx',
  title: 'differencing vhdx',
  build: async (host) => {
    await createImageAt(host, '/base', 'vhdx', { size: 3 << 20, block_size: 1 << 20 })
    await createImageAt(host, imagePath, 'vhdx', {
      size: 3 << 20,
      block_size: 1 << 20,
      backing_file: 'base',
      block_state_zero: false,
    })
  },
  grownSize: 20 << 20,
  checks: true,
  crashStates: 50,
  metadata: [
    [0x10000, 0x10050],
    [0x20000, 0x20050],
    [0x30000, 0x30050],
    [0x200000, 0x200018],
    [0x208000, 0x208008],
    [0x300000, 0x3000e0],
    [0x310000, 0x310028],
    [0x311000, 0x3110c0],
  ],
})
