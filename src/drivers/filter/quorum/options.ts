import { defineOptions } from '../../../options/index.js'

export const quorumOptions = defineOptions({
  'vote-threshold': { type: 'number', help: 'The number of vote needed for reaching quorum' },
  blkverify: { type: 'bool', help: 'Trigger block verify mode if set' },
  'rewrite-corrupted': { type: 'bool', help: 'Rewrite corrupted block on read quorum' },
  'read-pattern': { type: 'string', help: 'Allowed pattern: quorum, fifo. Quorum is default' },
})
