import { test } from 'vitest'
import { file, none, nullNode, same } from './same.js'
import { call, type Step } from './transcript.js'

// What jobs and nodes tell of errors, and the verbs with which a job goes on or ends.

const MiB = 1 << 20
const status = (id: string, word: string): Step => ({
  awaits: 'JOB_STATUS_CHANGE',
  data: { id, status: word },
})
const raw = (name: string, node: string): Step =>
  call('blockdev-add', { driver: 'raw', 'node-name': node, file: file(name) })

/** A node over an image whose accesses fail as `inject` has it. */
const failing = (name: string, node: string, inject: object): Step =>
  call('blockdev-add', {
    driver: 'raw',
    'node-name': node,
    file: { driver: 'blkdebug', image: file(name), 'inject-error': [inject] },
  })

const images = (
  img: (...args: string[]) => void,
  io: (image: string, ...commands: string[]) => void,
): void => {
  img('create', '-q', '-f', 'raw', 'source.raw', '2M')
  img('create', '-q', '-f', 'raw', 'target.raw', '2M')
  io('json:{"driver":"raw","file":{"driver":"file","filename":"source.raw"}}', 'write -P 7 0 2M')
}

const once = { event: 'read_aio', errno: 5, once: true }
const backup = (args: object): Step =>
  call('blockdev-backup', { 'job-id': 'j', device: 'source', target: 'target', sync: 'full', ...args })

test('a backup whose source fails', async () => {
  for (const policy of ['report', 'ignore']) {
    await same(`source-${policy}`, images, [
      failing('source.raw', 'source', once),
      raw('target.raw', 'target'),
      backup({ 'on-source-error': policy, 'auto-dismiss': false }),
      status('j', 'concluded'),
      call('query-jobs'),
      call('query-block-jobs'),
      call('block-job-resume', { device: 'j' }),
      call('job-dismiss', { id: 'j' }),
      status('j', 'null'),
    ])
  }
})

test('a backup that stops at an error, and goes on', async () => {
  await same('source-stop', images, [
    failing('source.raw', 'source', once),
    raw('target.raw', 'target'),
    backup({ 'on-source-error': 'stop' }),
    { awaits: 'BLOCK_JOB_ERROR' },
    status('j', 'paused'),
    call('query-block-jobs'),
    call('query-jobs'),
    call('block-job-complete', { device: 'j' }),
    call('block-job-dismiss', { id: 'j' }),
    call('block-job-finalize', { id: 'j' }),
    call('block-job-resume', { device: 'j' }),
    status('j', 'null'),
    call('block-job-resume', { device: 'j' }),
    call('query-jobs'),
  ])
})

test('a target without room', async () => {
  for (const policy of ['report', 'enospc', 'stop']) {
    const stops = policy !== 'report'
    await same(`target-${policy}`, images, [
      raw('source.raw', 'source'),
      failing('target.raw', 'target', { event: 'write_aio', errno: 28, once: true }),
      backup({ 'on-target-error': policy }),
      { awaits: 'BLOCK_JOB_ERROR' },
      ...(stops ? [status('j', 'paused'), call('query-block-jobs'), call('job-resume', { id: 'j' })] : []),
      status('j', 'null'),
    ])
  }
})

test('a mirror that stops, and is cancelled', async () => {
  await same('mirror-stop', images, [
    raw('source.raw', 'source'),
    failing('target.raw', 'target', { event: 'write_aio', errno: 5, once: true }),
    call('blockdev-mirror', {
      'job-id': 'j',
      device: 'source',
      target: 'target',
      sync: 'full',
      'on-target-error': 'stop',
    }),
    { awaits: 'BLOCK_JOB_ERROR' },
    status('j', 'paused'),
    call('block-job-cancel', { device: 'j' }),
    call('block-job-cancel', { device: 'j', force: true }),
    { awaits: 'BLOCK_JOB_CANCELLED' },
    status('j', 'null'),
    call('query-block-jobs'),
  ])
})

test('a job that waits for leave to end', async () => {
  await same('pending', images, [
    raw('source.raw', 'source'),
    raw('target.raw', 'target'),
    backup({ 'auto-finalize': false, 'auto-dismiss': false }),
    { awaits: 'BLOCK_JOB_PENDING' },
    call('query-jobs'),
    call('block-job-dismiss', { id: 'j' }),
    call('block-job-resume', { device: 'j' }),
    call('block-job-finalize', { id: 'nope' }),
    call('block-job-finalize', { id: 'j' }),
    status('j', 'concluded'),
    call('block-job-finalize', { id: 'j' }),
    call('block-job-dismiss', { id: 'nope' }),
    call('block-job-dismiss', { id: 'j' }),
    status('j', 'null'),
    call('block-job-dismiss', { id: 'j' }),
  ])
})

test('a write threshold', async () => {
  await same('threshold', images, [
    raw('source.raw', 'source'),
    raw('target.raw', 'target'),
    call('block-set-write-threshold', { 'node-name': 'nope', 'write-threshold': 1 }),
    call('block-set-write-threshold', { 'node-name': 'target', 'write-threshold': -1 }),
    call('block-set-write-threshold', { 'node-name': 'target', 'write-threshold': 2 * MiB - 1 }),
    call('query-named-block-nodes', { flat: true }),
    backup({}),
    { awaits: 'BLOCK_WRITE_THRESHOLD' },
    status('j', 'null'),
    call('query-named-block-nodes', { flat: true }),
  ])
})

test('an image that is damaged', async () => {
  await same(
    'corrupt',
    (img, io) => {
      img('create', '-q', '-f', 'qcow2', 'source.qcow2', '1M')
      io('source.qcow2', 'write -P 1 0 64k')
      img('create', '-q', '-f', 'raw', 'target.raw', '1M')
      // The first cluster's place is no multiple of clusters.
      io('json:{"driver":"raw","file":{"driver":"file","filename":"source.qcow2"}}', 'write -P 2 262150 1')
    },
    [
      call('blockdev-add', { driver: 'qcow2', 'node-name': 'source', file: file('source.qcow2') }),
      raw('target.raw', 'target'),
      backup({}),
      { awaits: 'BLOCK_IMAGE_CORRUPTED' },
      status('j', 'null'),
    ],
  )
})

test('a quorum that disagrees', async () => {
  const children = (...names: string[]): object[] =>
    names.map((name) => ({ driver: 'raw', file: file(name) }))
  await same(
    'quorum',
    (img, io) => {
      for (const [name, byte] of [
        ['a.raw', 1],
        ['b.raw', 1],
        ['c.raw', 2],
        ['d.raw', 3],
      ] as const) {
        img('create', '-q', '-f', 'raw', name, '64k')
        io(`json:{"driver":"raw","file":{"driver":"file","filename":"${name}"}}`, `write -P ${byte} 0 64k`)
      }
      img('create', '-q', '-f', 'raw', 'target.raw', '64k')
    },
    [
      call('blockdev-add', {
        driver: 'quorum',
        'node-name': 'source',
        'vote-threshold': 2,
        children: children('a.raw', 'b.raw', 'c.raw'),
      }),
      raw('target.raw', 'target'),
      backup({}),
      { awaits: 'QUORUM_REPORT_BAD' },
      status('j', 'null'),
      call('blockdev-del', { 'node-name': 'source' }),
      call('blockdev-add', {
        driver: 'quorum',
        'node-name': 'source',
        'vote-threshold': 2,
        children: children('a.raw', 'c.raw', 'd.raw'),
      }),
      backup({}),
      { awaits: 'QUORUM_FAILURE' },
      status('j', 'null'),
    ],
  )
})

test('bitmaps, and character devices of other kinds', async () => {
  await same('rest', none, [
    nullNode('n'),
    call('block-dirty-bitmap-add', { node: 'n', name: 'b', disabled: true }),
    call('block-dirty-bitmap-enable', { node: 'n', name: 'nope' }),
    call('block-dirty-bitmap-enable', { node: 'n', name: 'b' }),
    call('query-named-block-nodes', { flat: true }),
    call('chardev-add', { id: 'c', backend: { type: 'null', data: {} } }),
    call('chardev-change', { id: 'nope', backend: { type: 'null', data: {} } }),
    call('chardev-change', { id: 'c', backend: { type: 'ringbuf', data: { size: 16 } } }),
    call('query-chardev'),
  ])
})
