import { test } from 'vitest'
import { file, none, nullNode, qcow2, same } from './same.js'
import { call, type Step } from './transcript.js'

test('nodes and what describes them', async () => {
  await same(
    'nodes',
    (img) => {
      img('create', '-q', '-f', 'qcow2', 'base.qcow2', '64M')
      img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2')
      img('create', '-q', '-f', 'raw', 'disk.raw', '1M')
    },
    [
      call('query-named-block-nodes'),
      call('query-block'),
      call('query-blockstats'),
      call('x-debug-query-block-graph'),
      nullNode('a'),
      nullNode('a'),
      nullNode('0'),
      nullNode('x'.repeat(32)),
      nullNode('r', { 'read-only': true, 'detect-zeroes': 'on', discard: 'unmap', cache: { direct: true } }),
      call('query-named-block-nodes'),
      call('blockdev-add', {
        driver: 'raw',
        'node-name': 'raw',
        file: file('disk.raw'),
        offset: 512,
        size: 1024,
      }),
      call('query-named-block-nodes', { flat: true }),
      call('blockdev-add', { driver: 'raw', 'node-name': 'gone', file: file('gone.raw') }),
      call('blockdev-add', { driver: 'raw', 'node-name': 'other', file: 'nothing' }),
      call('blockdev-add', { driver: 'raw', 'node-name': 'other', file: 'raw', size: 7 }),
      call('blockdev-add', { driver: 'raw', 'node-name': 'over', file: 'a' }),
      call('blockdev-del', { 'node-name': 'a' }),
      call('blockdev-del', { 'node-name': 'over' }),
      call('blockdev-del', { 'node-name': 'a' }),
      call('blockdev-del', { 'node-name': 'a' }),
      qcow2('top.qcow2', 'top'),
      call('query-named-block-nodes'),
      call('query-named-block-nodes', { flat: true }),
      call('query-blockstats', { 'query-nodes': true }),
      call('query-blockstats'),
      call('blockdev-del', { 'node-name': 'top-file' }),
      call('blockdev-add', { driver: 'copy-on-read', 'node-name': 'cor', file: 'top' }),
      call('blockdev-add', { driver: 'throttle', 'node-name': 'thr', file: 'cor', 'throttle-group': 'nope' }),
      call('blockdev-add', { driver: 'blkdebug', 'node-name': 'dbg', image: 'cor' }),
      call('query-named-block-nodes'),
      call('blockdev-del', { 'node-name': 'dbg' }),
      call('blockdev-del', { 'node-name': 'cor' }),
      call('blockdev-del', { 'node-name': 'top' }),
      call('query-named-block-nodes', { flat: true }),
      call('blockdev-add', {
        driver: 'quorum',
        'node-name': 'q',
        'vote-threshold': 1,
        children: [
          { driver: 'null-co', size: 512 },
          { driver: 'null-co', size: 512, 'node-name': 'child1' },
        ],
      }),
      nullNode('extra', { size: 512 }),
      call('x-blockdev-change', { parent: 'q', node: 'extra' }),
      call('x-blockdev-change', { parent: 'q', child: 'children.0' }),
      call('x-blockdev-change', { parent: 'q', child: 'children.0' }),
      call('x-blockdev-change', { parent: 'q' }),
      call('x-blockdev-change', { parent: 'q', child: 'children.1', node: 'r' }),
      call('x-blockdev-change', { parent: 'q', node: 'zz' }),
      call('x-blockdev-change', { parent: 'zz', node: 'zz' }),
      call('x-blockdev-change', { parent: 'r', node: 'raw' }),
      call('blockdev-del', { 'node-name': 'q' }),
      call('x-blockdev-set-iothread', { 'node-name': 'raw', iothread: 'q' }),
      call('x-blockdev-set-iothread', { 'node-name': 'zz', iothread: 'q' }),
      call('x-blockdev-set-iothread', { 'node-name': 'raw', iothread: null }),
      call('block-set-write-threshold', { 'node-name': 'raw', 'write-threshold': 100 }),
      call('block-set-write-threshold', { 'node-name': 'zz', 'write-threshold': 100 }),
      call('query-named-block-nodes', { flat: true }),
    ],
  )
})

test('resizing, other backing files, reopening', async () => {
  await same(
    'change',
    (img) => {
      img('create', '-q', '-f', 'qcow2', 'base.qcow2', '1M')
      img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'mid.qcow2')
      img('create', '-q', '-f', 'qcow2', '-b', 'mid.qcow2', '-F', 'qcow2', 'top.qcow2')
      img('create', '-q', '-f', 'raw', 'disk.raw', '1M')
    },
    [
      qcow2('base.qcow2', 'base', { 'read-only': true }),
      qcow2('mid.qcow2', 'mid', { 'read-only': true, backing: 'base' }),
      qcow2('top.qcow2', 'top', { backing: 'mid' }),
      call('block_resize', { 'node-name': 'top', size: 2097152 }),
      call('block_resize', { 'node-name': 'mid', size: 2097152 }),
      call('block_resize', { 'node-name': 'top', size: -1 }),
      call('block_resize', { 'node-name': 'top', size: 700 }),
      call('block_resize', { size: 1 }),
      call('block_resize', { device: 'top', size: 3145728 }),
      call('block_resize', { device: 'zz', 'node-name': 'zz', size: 1 }),
      call('query-named-block-nodes', { flat: true }),
      call('change-backing-file', { device: 'top', 'image-node-name': 'mid', 'backing-file': 'x.qcow2' }),
      call('change-backing-file', { device: 'top', 'image-node-name': 'base', 'backing-file': 'x.qcow2' }),
      call('change-backing-file', { device: 'mid', 'image-node-name': 'top', 'backing-file': 'x.qcow2' }),
      call('change-backing-file', { device: 'top', 'image-node-name': 'zz', 'backing-file': 'x.qcow2' }),
      call('change-backing-file', { device: 'zz', 'image-node-name': 'top', 'backing-file': 'x.qcow2' }),
      call('change-backing-file', {
        device: 'top',
        'image-node-name': 'top',
        'backing-file': 'DIR/base.qcow2',
      }),
      call('query-named-block-nodes', { flat: true }),
      call('blockdev-reopen', { options: [{ driver: 'qcow2', file: 'top-file' }] }),
      call('blockdev-reopen', { options: [{ driver: 'qcow2', 'node-name': 'zz', file: 'top-file' }] }),
      call('blockdev-reopen', { options: [{ driver: 'qcow2', 'node-name': 'top', file: 'top-file' }] }),
      call('blockdev-reopen', {
        options: [
          { driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: 'mid', 'read-only': true },
        ],
      }),
      call('blockdev-reopen', {
        options: [
          { driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: 'base', 'read-only': true },
        ],
      }),
      call('blockdev-reopen', {
        options: [
          { driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: null, 'read-only': true },
        ],
      }),
      call('query-named-block-nodes', { flat: true }),
      call('blockdev-reopen', { options: [{ driver: 'raw', 'node-name': 'top', file: 'top-file' }] }),
      call('blockdev-reopen', {
        options: [{ driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: null, discard: 'unmap' }],
      }),
      call('blockdev-del', { 'node-name': 'mid' }),
      call('blockdev-del', { 'node-name': 'base' }),
      call('blockdev-del', { 'node-name': 'top' }),
    ],
  )
})

test('dirty bitmaps', async () => {
  const bitmap = (command: string, args: object): Step => call(`block-dirty-bitmap-${command}`, args)
  await same(
    'bitmaps',
    (img) => {
      img('create', '-q', '-f', 'qcow2', 'disk.qcow2', '64M')
      img('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', 'old.qcow2', '1M')
    },
    [
      qcow2('disk.qcow2', 'disk'),
      qcow2('old.qcow2', 'old'),
      nullNode('null'),
      bitmap('add', { node: 'disk', name: 'a' }),
      bitmap('add', { node: 'disk', name: 'a' }),
      bitmap('add', { node: 'disk', name: '' }),
      bitmap('add', { node: 'zz', name: 'a' }),
      bitmap('add', { node: 'disk', name: 'b', granularity: 1000 }),
      bitmap('add', { node: 'disk', name: 'b', granularity: 256 }),
      bitmap('add', { node: 'disk', name: 'b', granularity: 4096, persistent: true }),
      bitmap('add', { node: 'disk', name: 'c', disabled: true }),
      bitmap('add', { node: 'disk', name: 'y'.repeat(1024), persistent: true }),
      bitmap('add', { node: 'old', name: 'b', persistent: true }),
      bitmap('add', { node: 'null', name: 'b', persistent: true }),
      bitmap('add', { node: 'null', name: 'b' }),
      call('query-named-block-nodes', { flat: true }),
      bitmap('enable', { node: 'disk', name: 'c' }),
      bitmap('disable', { node: 'disk', name: 'a' }),
      bitmap('clear', { node: 'disk', name: 'a' }),
      bitmap('clear', { node: 'disk', name: 'zz' }),
      bitmap('clear', { node: 'zz', name: 'zz' }),
      bitmap('merge', { node: 'disk', target: 'a', bitmaps: ['b', 'c'] }),
      bitmap('merge', { node: 'disk', target: 'a', bitmaps: ['zz'] }),
      bitmap('merge', { node: 'disk', target: 'zz', bitmaps: ['a'] }),
      bitmap('merge', { node: 'disk', target: 'a', bitmaps: [{ node: 'null', name: 'b' }] }),
      bitmap('merge', { node: 'disk', target: 'a', bitmaps: [{ node: 'nu', name: 'b' }] }),
      call('x-debug-block-dirty-bitmap-sha256', { node: 'disk', name: 'a' }),
      call('x-debug-block-dirty-bitmap-sha256', { node: 'null', name: 'b' }),
      call('x-debug-block-dirty-bitmap-sha256', { node: 'null', name: 'zz' }),
      bitmap('remove', { node: 'disk', name: 'zz' }),
      bitmap('remove', { node: 'disk', name: 'a' }),
      bitmap('remove', { node: 'disk', name: 'b' }),
      call('transaction', {
        actions: [
          { type: 'block-dirty-bitmap-add', data: { node: 'disk', name: 'n' } },
          { type: 'block-dirty-bitmap-disable', data: { node: 'disk', name: 'c' } },
          { type: 'block-dirty-bitmap-clear', data: { node: 'disk', name: 'c' } },
          { type: 'block-dirty-bitmap-merge', data: { node: 'disk', target: 'n', bitmaps: ['c'] } },
          { type: 'abort', data: {} },
        ],
      }),
      call('query-named-block-nodes', { flat: true }),
      call('transaction', {
        actions: [
          { type: 'block-dirty-bitmap-add', data: { node: 'disk', name: 'n' } },
          { type: 'block-dirty-bitmap-disable', data: { node: 'disk', name: 'c' } },
          { type: 'block-dirty-bitmap-remove', data: { node: 'null', name: 'b' } },
        ],
      }),
      call('transaction', {
        actions: [{ type: 'block-dirty-bitmap-add', data: { node: 'disk', name: 'g' } }],
        properties: { 'completion-mode': 'grouped' },
      }),
      call('transaction', { actions: [] }),
      call('query-named-block-nodes', { flat: true }),
      call('blockdev-del', { 'node-name': 'disk' }),
    ],
  )
})

test('exports and the NBD server', async () => {
  const start = call('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd.sock' } } })
  const add = (args: object): Step => call('block-export-add', args)
  await same('exports', none, [
    call('nbd-server-stop'),
    add({ type: 'nbd', id: 'e', 'node-name': 'a' }),
    nullNode('a'),
    nullNode('r', { 'read-only': true }),
    add({ type: 'nbd', id: 'e', 'node-name': 'a' }),
    add({ type: 'nbd', id: '0', 'node-name': 'a' }),
    call('block-export-del', { id: 'e' }),
    call('nbd-server-add', { device: 'a' }),
    call('nbd-server-remove', { name: 'a' }),
    call('nbd-server-start', { addr: { type: 'unix', data: { path: '/nonexist/nbd.sock' } } }),
    call('nbd-server-start', { addr: { type: 'inet', data: { host: '127.0.0.1', port: 'x' } } }),
    call('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/x' } }, 'tls-creds': 'nope' }),
    start,
    start,
    add({ type: 'nbd', id: 'e', 'node-name': 'a', name: 'x', writable: true }),
    add({ type: 'nbd', id: 'e', 'node-name': 'a' }),
    add({ type: 'nbd', id: 'e2', 'node-name': 'a', name: 'x' }),
    add({ type: 'nbd', id: 'e3', 'node-name': 'r', name: 'y', writable: true }),
    add({ type: 'nbd', id: 'e4', 'node-name': 'r', name: 'y', iothread: 'z' }),
    add({ type: 'nbd', id: 'e5', 'node-name': 'r', name: 'y'.repeat(4097) }),
    add({ type: 'nbd', id: 'e6', 'node-name': 'r', description: 'y'.repeat(4097) }),
    add({ type: 'nbd', id: 'g', 'node-name': 'r', bitmaps: ['x'] }),
    add({ type: 'nbd', id: 'g', 'node-name': 'r', bitmaps: [{ node: 'r', name: 'x' }] }),
    call('block-dirty-bitmap-add', { node: 'r', name: 'bm' }),
    add({ type: 'nbd', id: 'g', 'node-name': 'r', name: 'g', bitmaps: ['bm'] }),
    call('block-dirty-bitmap-disable', { node: 'r', name: 'bm' }),
    add({ type: 'nbd', id: 'g', 'node-name': 'r', bitmaps: ['bm'], 'allocation-depth': true }),
    call('block-dirty-bitmap-remove', { node: 'r', name: 'bm' }),
    call('query-named-block-nodes'),
    call('blockdev-del', { 'node-name': 'r' }),
    call('nbd-server-add', { device: 'r', writable: true }),
    call('nbd-server-add', { device: 'r' }),
    call('nbd-server-add', { device: 'nope' }),
    call('nbd-server-add', { device: 'r', name: 'z', bitmap: 'b' }),
    call('nbd-server-add', { device: 'r', name: 'long'.repeat(1025) }),
    call('query-block-exports'),
    call('nbd-server-remove', { name: 'r' }),
    { awaits: 'BLOCK_EXPORT_DELETED', data: { id: 'r' } },
    call('nbd-server-remove', { name: 'x' }),
    call('block-export-del', { id: 'e' }),
    { awaits: 'BLOCK_EXPORT_DELETED', data: { id: 'e' } },
    call('blockdev-del', { 'node-name': 'a' }),
    call('nbd-server-stop'),
    { awaits: 'BLOCK_EXPORT_DELETED', data: { id: 'g' } },
    call('query-block-exports'),
    start,
    call('nbd-server-stop'),
  ])
})

test('snapshots', async () => {
  const sync = (args: object): Step => call('blockdev-snapshot-sync', args)
  await same(
    'snapshots',
    (img) => {
      img('create', '-q', '-f', 'qcow2', 'a.qcow2', '64M')
      img('create', '-q', '-f', 'qcow2', 'o.qcow2', '64M')
      img('create', '-q', '-f', 'raw', 'r.raw', '1M')
      img('create', '-q', '-f', 'qcow2', 'i.qcow2', '1M')
    },
    [
      nullNode('null'),
      call('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd.sock' } } }),
      qcow2('a.qcow2', 'a'),
      call('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'a', writable: true }),
      sync({ 'node-name': 'a', 'snapshot-file': 'DIR/s.qcow2' }),
      sync({ 'node-name': 'a', 'snapshot-file': 'DIR/s.qcow2', 'snapshot-node-name': 'a' }),
      sync({ 'node-name': 'a', 'snapshot-file': '/nonexist/s.qcow2', 'snapshot-node-name': 's' }),
      sync({ 'node-name': 'a', 'snapshot-file': 'DIR/s.qcow2', 'snapshot-node-name': 's', format: 'nope' }),
      sync({ 'node-name': 'a', 'snapshot-file': 'DIR/s.raw', 'snapshot-node-name': 's', format: 'raw' }),
      sync({ 'node-name': 'zz', 'snapshot-file': 'DIR/s.qcow2', 'snapshot-node-name': 's' }),
      sync({ 'snapshot-file': 'DIR/s.qcow2', 'snapshot-node-name': 's' }),
      sync({ device: 'q', 'snapshot-file': 'DIR/s.qcow2', 'snapshot-node-name': 's' }),
      sync({
        'node-name': 'a',
        'snapshot-file': 'DIR/gone.qcow2',
        'snapshot-node-name': 's',
        mode: 'existing',
      }),
      sync({ 'node-name': 'a', 'snapshot-file': 'DIR/s.qcow2', 'snapshot-node-name': 's' }),
      call('query-named-block-nodes', { flat: true }),
      qcow2('o.qcow2', 'o', { backing: null }),
      call('blockdev-snapshot', { node: 'null', overlay: 'zz' }),
      call('blockdev-snapshot', { node: 'zz', overlay: 'o' }),
      call('blockdev-snapshot', { node: 'o', overlay: 'null' }),
      call('blockdev-snapshot', { node: 'null', overlay: 'a' }),
      call('transaction', {
        actions: [
          { type: 'blockdev-snapshot', data: { node: 's', overlay: 'o' } },
          { type: 'abort', data: {} },
        ],
      }),
      call('query-named-block-nodes', { flat: true }),
      call('transaction', { actions: [{ type: 'blockdev-snapshot', data: { node: 's', overlay: 'o' } }] }),
      call('blockdev-snapshot', { node: 'null', overlay: 'o' }),
      call('query-named-block-nodes', { flat: true }),
      call('x-debug-query-block-graph'),
      call('blockdev-snapshot-internal-sync', { device: 'o', name: 's1' }),
      call('blockdev-snapshot-internal-sync', { device: 'a', name: 's1' }),
      qcow2('i.qcow2', 'i'),
      call('blockdev-snapshot-internal-sync', { device: 'i', name: 's1' }),
      call('blockdev-snapshot-internal-sync', { device: 'i', name: 's1' }),
      call('blockdev-snapshot-internal-sync', { device: 'i', name: '' }),
      call('blockdev-snapshot-internal-sync', { device: 'zz', name: 's' }),
      call('blockdev-snapshot-internal-sync', { device: 'null', name: 's' }),
      call('transaction', {
        actions: [
          { type: 'blockdev-snapshot-internal-sync', data: { device: 'i', name: 's2' } },
          { type: 'abort', data: {} },
        ],
      }),
      call('query-named-block-nodes', { flat: true }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'i' }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'i', name: 'zz' }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'i', id: '7' }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'null', name: 'zz' }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'i', name: 's1' }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'a', name: 's1' }),
    ],
  )
})

test('objects and character devices', async () => {
  await same('objects', none, [
    call('object-add', { 'qom-type': 'secret', id: 's', data: 'abc' }),
    call('object-add', { 'qom-type': 'secret', id: 's', data: 'abc' }),
    call('object-add', { 'qom-type': 'secret', id: 't' }),
    call('object-add', { 'qom-type': 'secret', id: '0', data: 'abc' }),
    call('object-add', { 'qom-type': 'secret', id: 't', data: 'abc', zz: 1 }),
    call('object-add', { 'qom-type': 'nope', id: 's' }),
    call('object-add', { 'qom-type': 'secret' }),
    call('object-del', { id: 'x' }),
    call('object-del', { id: 's' }),
    call('object-add', { 'qom-type': 'throttle-group', id: 't', limits: { 'iops-total': 100 } }),
    call('qom-list', { path: '/' }),
    call('qom-list', { path: '/objects' }),
    call('qom-list', { path: '/nope' }),
    call('qom-get', { path: '/objects/t', property: 'limits' }),
    call('qom-get', { path: '/objects/t', property: 'type' }),
    call('qom-get', { path: 't', property: 'x-iops-total' }),
    call('qom-get', { path: 't', property: 'nope' }),
    call('qom-set', { path: '/objects/t', property: 'limits', value: { 'iops-total': 200 } }),
    call('qom-get', { path: 't', property: 'x-iops-total' }),
    call('blockdev-add', {
      driver: 'throttle',
      'node-name': 'thr',
      'throttle-group': 't',
      file: { driver: 'null-co', size: 512 },
    }),
    call('object-del', { id: 't' }),
    call('blockdev-del', { 'node-name': 'thr' }),
    call('object-del', { id: 't' }),
    call('qom-list-properties', { typename: 'nope' }),
    call('query-chardev'),
    call('chardev-add', { id: 'r', backend: { type: 'ringbuf', data: { size: 16 } } }),
    call('chardev-add', { id: 'r', backend: { type: 'null', data: {} } }),
    call('chardev-add', { id: 'q', backend: { type: 'ringbuf', data: { size: 15 } } }),
    call('ringbuf-write', { device: 'r', data: 'hello' }),
    call('ringbuf-read', { device: 'r', size: 3 }),
    call('ringbuf-read', { device: 'r', size: 300 }),
    call('ringbuf-read', { device: 'r', size: 0 }),
    call('ringbuf-read', { device: 'zz', size: 1 }),
    call('ringbuf-write', { device: 'monitor0', data: 'x' }),
    call('ringbuf-write', { device: 'r', data: 'aGVsbG8=', format: 'base64' }),
    call('ringbuf-read', { device: 'r', size: 16, format: 'base64' }),
    call('query-chardev'),
    call('chardev-remove', { id: 'r' }),
    call('chardev-remove', { id: 'r' }),
    call('chardev-remove', { id: 'monitor0' }),
    call('chardev-add', { id: 'n', backend: { type: 'null', data: {} } }),
    call('chardev-send-break', { id: 'n' }),
    call('chardev-send-break', { id: 'zz' }),
    call('query-chardev'),
  ])
})
