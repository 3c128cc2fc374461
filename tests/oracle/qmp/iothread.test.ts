import { test } from 'vitest'
import { file, same } from './same.js'
import { call } from './transcript.js'

const add = (options: object) => call('block-export-add', { type: 'nbd', ...options })
const object = (id: string, more: object = {}) => call('object-add', { 'qom-type': 'iothread', id, ...more })

test('I/O threads: objects, exports and nodes on them', async () => {
  await same('iothread', (img) => img('create', '-q', '-f', 'raw', 'disk.raw', '1M'), [
    object('t0'),
    object('t0'),
    object('0'),
    object('t1', { 'poll-max-ns': -1 }),
    object('t1', { 'aio-max-batch': -5 }),
    object('t1', { 'poll-grow': 'x' }),
    object('t1', { foo: 1 }),
    object('t1', { 'poll-max-ns': 5, 'thread-pool-max': 7 }),
    call('qom-get', { path: '/objects/t1', property: 'poll-max-ns' }),
    call('qom-get', { path: '/objects/t1', property: 'thread-pool-max' }),
    call('qom-get', { path: '/objects/t0', property: 'poll-max-ns' }),
    call('qom-get', { path: '/objects/t0', property: 'nothing' }),
    call('blockdev-add', { ...file('disk.raw'), 'node-name': 'n' }),
    call('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd' } } }),
    add({ id: 'e', 'node-name': 'n', iothread: 'nothing' }),
    add({ id: 'e', 'node-name': 'n', iothread: 't0' }),
    add({ id: 'e2', 'node-name': 'n', name: 'two', iothread: 't0', 'fixed-iothread': true }),
    call('query-block-exports'),
    call('block-export-del', { id: 'e' }),
    call('block-export-del', { id: 'e2' }),
    call('x-blockdev-set-iothread', { 'node-name': 'n', iothread: 'nothing' }),
    call('x-blockdev-set-iothread', { 'node-name': 'n', iothread: 't1' }),
    call('x-blockdev-set-iothread', { 'node-name': 'n', iothread: null }),
    call('blockdev-del', { 'node-name': 'n' }),
    call('object-del', { id: 't1' }),
    call('object-del', { id: 't1' }),
  ])
})
