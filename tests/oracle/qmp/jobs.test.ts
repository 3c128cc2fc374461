import { test } from 'vitest'
import { file, nullNode, qcow2, same } from './same.js'
import { call, type Step } from './transcript.js'

const chain = (
  img: (...args: string[]) => void,
  io: (image: string, ...commands: string[]) => void,
): void => {
  img('create', '-q', '-f', 'qcow2', 'base.qcow2', '4M')
  io('base.qcow2', 'write -P 1 0 1M')
  img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'mid.qcow2')
  io('mid.qcow2', 'write -P 2 512k 1M')
  img('create', '-q', '-f', 'qcow2', '-b', 'mid.qcow2', '-F', 'qcow2', 'top.qcow2')
  io('top.qcow2', 'write -P 3 1M 1M')
  img('create', '-q', '-f', 'qcow2', 'target.qcow2', '4M')
  img('create', '-q', '-f', 'raw', 'target.raw', '4M')
  img('create', '-q', '-f', 'raw', 'small.raw', '1M')
}

const open: Step[] = [
  qcow2('base.qcow2', 'base', { 'read-only': true }),
  qcow2('mid.qcow2', 'mid', { 'read-only': true, backing: 'base' }),
  qcow2('top.qcow2', 'top', { backing: 'mid' }),
]

const status = (id: string, word: string): Step => ({
  awaits: 'JOB_STATUS_CHANGE',
  data: { id, status: word },
})

const raw = (name: string, node: string): Step =>
  call('blockdev-add', { driver: 'raw', 'node-name': node, file: file(name) })

test('streaming', async () => {
  const stream = (args: object): Step => call('block-stream', { 'job-id': 'j', device: 'top', ...args })
  await same('stream', chain, [
    ...open,
    call('block-stream', { device: 'top' }),
    call('block-stream', { device: 'zz', 'job-id': 'j' }),
    stream({ base: 'a', 'base-node': 'b' }),
    stream({ base: 'a', bottom: 'b' }),
    stream({ bottom: 'a', 'base-node': 'b' }),
    stream({ base: 'gone.qcow2' }),
    stream({ 'base-node': 'zz' }),
    stream({ 'base-node': 'top' }),
    stream({ bottom: 'zz' }),
    stream({ 'backing-file': 'x' }),
    stream({ 'job-id': '0' }),
    stream({ speed: -1 }),
    stream({ 'base-node': 'base', 'auto-dismiss': false }),
    status('j', 'concluded'),
    call('query-jobs'),
    call('query-block-jobs'),
    call('job-pause', { id: 'j' }),
    call('block-job-cancel', { device: 'j' }),
    call('job-dismiss', { id: 'j' }),
    status('j', 'null'),
    call('job-dismiss', { id: 'j' }),
    call('block-job-cancel', { device: 'j' }),
    call('query-jobs'),
    stream({}),
    status('j', 'null'),
    call('query-named-block-nodes', { flat: true }),
  ])
})

test('committing', async () => {
  const commit = (args: object): Step => call('block-commit', { 'job-id': 'j', device: 'top', ...args })
  await same('commit', chain, [
    ...open,
    call('block-commit', { device: 'zz' }),
    call('block-commit', { device: 'mid' }),
    commit({ 'top-node': 'a', top: 'b' }),
    commit({ 'base-node': 'a', base: 'b' }),
    commit({ 'top-node': 'zz' }),
    commit({ top: 'gone.qcow2' }),
    commit({ base: 'gone.qcow2' }),
    commit({ 'top-node': 'base', 'base-node': 'mid' }),
    commit({ 'base-node': 'top' }),
    commit({ 'backing-file': 'x' }),
    commit({ 'top-node': 'mid', 'base-node': 'base' }),
    status('j', 'null'),
    call('query-named-block-nodes', { flat: true }),
    commit({}),
    { awaits: 'BLOCK_JOB_READY' },
    call('query-jobs'),
    call('query-block-jobs'),
    call('block-job-complete', { device: 'j' }),
    status('j', 'null'),
    call('query-named-block-nodes', { flat: true }),
  ])
})

test('mirroring', async () => {
  const mirror = (args: object): Step =>
    call('blockdev-mirror', { 'job-id': 'j', device: 'top', target: 'target', sync: 'full', ...args })
  await same('mirror', chain, [
    ...open,
    qcow2('target.qcow2', 'target'),
    raw('small.raw', 'small'),
    call('blockdev-mirror', { device: 'top', target: 'target', sync: 'full' }),
    mirror({ device: 'zz' }),
    mirror({ device: 'base' }),
    mirror({ target: 'zz' }),
    mirror({ target: 'top' }),
    mirror({ granularity: 3 }),
    mirror({ granularity: 1000 }),
    mirror({ 'buf-size': -1 }),
    mirror({ sync: 'incremental' }),
    mirror({ replaces: 'zz' }),
    mirror({ replaces: 'small' }),
    mirror({ 'filter-node-name': 'top' }),
    mirror({ speed: -5 }),
    mirror({ 'auto-dismiss': false }),
    { awaits: 'BLOCK_JOB_READY' },
    call('query-jobs'),
    call('query-block-jobs'),
    mirror({ 'job-id': 'k' }),
    call('blockdev-del', { 'node-name': 'target' }),
    call('job-pause', { id: 'j' }),
    call('job-pause', { id: 'j' }),
    call('job-resume', { id: 'j' }),
    call('block-job-set-speed', { device: 'j', speed: -1 }),
    call('block-job-set-speed', { device: 'j', speed: 100000 }),
    call('job-finalize', { id: 'j' }),
    call('job-complete', { id: 'j' }),
    status('j', 'concluded'),
    call('query-jobs'),
    call('job-dismiss', { id: 'j' }),
    status('j', 'null'),
    call('query-named-block-nodes', { flat: true }),
  ])
})

test('a mirror that is cancelled', async () => {
  await same('cancel', chain, [
    ...open,
    raw('target.raw', 'target'),
    call('blockdev-mirror', { 'job-id': 'j', device: 'top', target: 'target', sync: 'full' }),
    { awaits: 'BLOCK_JOB_READY' },
    call('block-job-cancel', { device: 'j' }),
    status('j', 'null'),
    call('blockdev-mirror', {
      'job-id': 'j',
      device: 'top',
      target: 'target',
      sync: 'top',
      'copy-mode': 'write-blocking',
    }),
    { awaits: 'BLOCK_JOB_READY' },
    call('job-cancel', { id: 'j' }),
    status('j', 'null'),
    call('drive-mirror', {
      'job-id': 'd',
      device: 'top',
      target: 'DIR/copy.qcow2',
      sync: 'top',
      format: 'qcow2',
    }),
    { awaits: 'BLOCK_JOB_READY' },
    call('job-complete', { id: 'd' }),
    status('d', 'null'),
    call('query-named-block-nodes', { flat: true }),
  ])
})

test('backups, also several at once', async () => {
  const backup = (args: object): Step =>
    call('blockdev-backup', { 'job-id': 'j', device: 'top', target: 'target', sync: 'full', ...args })
  const action = (args: object): object => ({
    type: 'blockdev-backup',
    data: { 'job-id': 'j', device: 'top', target: 'target', sync: 'full', ...args },
  })
  await same('backup', chain, [
    ...open,
    qcow2('target.qcow2', 'target'),
    raw('target.raw', 'other'),
    raw('small.raw', 'small'),
    call('blockdev-backup', { device: 'top', target: 'target', sync: 'full' }),
    backup({ device: 'zz' }),
    backup({ target: 'zz' }),
    backup({ target: 'top' }),
    backup({ target: 'small' }),
    backup({ sync: 'bitmap' }),
    backup({ sync: 'incremental' }),
    backup({ sync: 'bitmap', bitmap: 'zz' }),
    backup({ sync: 'bitmap', bitmap: 'zz', 'bitmap-mode': 'always' }),
    backup({ sync: 'incremental', bitmap: 'zz', 'bitmap-mode': 'never' }),
    backup({ bitmap: 'zz' }),
    backup({ target: 'other', compress: true }),
    backup({ 'x-perf': { 'max-workers': 0 } }),
    backup({ 'x-perf': { 'max-chunk': 1 } }),
    backup({ 'x-perf': { 'max-chunk': -1 } }),
    backup({ speed: -1 }),
    backup({ 'job-id': '0' }),
    backup({ 'auto-finalize': false, 'auto-dismiss': false }),
    status('j', 'pending'),
    call('query-jobs'),
    call('job-finalize', { id: 'j' }),
    status('j', 'concluded'),
    call('job-dismiss', { id: 'j' }),
    status('j', 'null'),
    call('block-dirty-bitmap-add', { node: 'top', name: 'b' }),
    backup({ sync: 'incremental', bitmap: 'b' }),
    status('j', 'null'),
    call('query-named-block-nodes', { flat: true }),
    call('transaction', { actions: [action({}), { type: 'abort', data: {} }] }),
    call('query-jobs'),
    call('transaction', { actions: [action({}), action({ 'job-id': 'k', target: 'zz' })] }),
    call('transaction', {
      actions: [action({}), { type: 'block-dirty-bitmap-add', data: { node: 'top', name: 'c' } }],
      properties: { 'completion-mode': 'grouped' },
    }),
    call('query-jobs'),
    call('drive-backup', {
      'job-id': 'd',
      device: 'top',
      target: 'DIR/copy.qcow2',
      sync: 'top',
      format: 'qcow2',
    }),
    status('d', 'null'),
    call('drive-backup', { 'job-id': 'd', device: 'top', target: '/nonexist/copy.qcow2', sync: 'full' }),
    call('query-named-block-nodes', { flat: true }),
  ])
})

test('creating and amending', async () => {
  const create = (options: object): Step[] => [
    call('blockdev-create', { 'job-id': 'c', options }),
    status('c', 'concluded'),
    call('query-jobs'),
    call('job-dismiss', { id: 'c' }),
    status('c', 'null'),
  ]
  const amend = (options: object, more: object = {}): Step =>
    call('x-blockdev-amend', { 'job-id': 'a', 'node-name': 'q', options, ...more })
  await same('create', () => undefined, [
    ...create({ driver: 'file', filename: 'DIR/a.img', size: 1048576 }),
    call('blockdev-add', { driver: 'file', filename: 'DIR/a.img', 'node-name': 'a' }),
    call('blockdev-create', { 'job-id': '0', options: { driver: 'qcow2', file: 'a', size: 7 } }),
    call('blockdev-create', { 'job-id': 'c', options: { driver: 'raw' } }),
    call('blockdev-create', { 'job-id': 'c', options: { driver: 'null-co' } }),
    call('blockdev-create', { 'job-id': 'c', options: { driver: 'qcow2', size: 7 } }),
    ...create({ driver: 'qcow2', file: 'zz', size: 1048576 }),
    ...create({ driver: 'qcow2', file: 'a', size: 1048576, 'cluster-size': 1000 }),
    ...create({ driver: 'qcow2', file: 'a', size: 1048576, 'refcount-bits': 3 }),
    ...create({ driver: 'qcow2', file: 'a', size: 1048576, version: 'v2', 'lazy-refcounts': true }),
    ...create({ driver: 'qcow2', file: 'a', size: 1048576, 'backing-fmt': 'raw' }),
    ...create({ driver: 'qcow2', file: 'a', size: 67108864, 'lazy-refcounts': true, 'cluster-size': 4096 }),
    call('blockdev-add', { driver: 'qcow2', file: 'a', 'node-name': 'q' }),
    call('query-named-block-nodes', { flat: true }),
    amend({ driver: 'luks', state: 'active' }),
    amend({ driver: 'qcow2' }, { 'node-name': 'zz' }),
    amend({ driver: 'file' }),
    amend({ driver: 'qcow2' }),
    status('a', 'concluded'),
    call('query-jobs'),
    call('job-dismiss', { id: 'a' }),
    status('a', 'null'),
    nullNode('n'),
    amend({ driver: 'null-co' }, { 'node-name': 'n' }),
  ])
})

test('verbs for jobs that are not there', async () => {
  await same('verbs', () => undefined, [
    ...['pause', 'resume', 'cancel', 'complete', 'finalize', 'dismiss'].map((verb) =>
      call(`job-${verb}`, { id: 'x' }),
    ),
    ...['pause', 'resume', 'cancel', 'complete'].map((verb) => call(`block-job-${verb}`, { device: 'x' })),
    ...['finalize', 'dismiss'].map((verb) => call(`block-job-${verb}`, { id: 'x' })),
    call('block-job-set-speed', { device: 'x', speed: 1 }),
    call('query-jobs'),
    call('query-block-jobs'),
  ])
})
