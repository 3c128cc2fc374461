import { formatConformance } from './conformance.js'

formatConformance({
  format: 'vhdx',
  create: { block_size: 1 << 20 },
  size: 3 << 20,
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
  checks: true,
})
