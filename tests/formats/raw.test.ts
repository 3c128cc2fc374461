import { describe } from 'vitest'
import { contentsTests } from './contents.js'
import { crashTests } from './crash.js'
import { faultTests } from './faults.js'

// A raw image has no metadata that could be damaged.
describe('raw', () => {
  const under = { format: 'raw', grownSize: 1 << 20 }
  contentsTests(under)
  faultTests(under)
  crashTests(under)
})
