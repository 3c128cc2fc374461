import { nullNode, type Prepare, qcow2 } from '../same.js'
import { call, guest, type Step } from '../transcript.js'
import type { Transcript } from './transcript-type.js'

const chain: Prepare = (img, io) => {
  img('create', '-q', '-f', 'qcow2', 'base.qcow2', '1M')
  io('base.qcow2', 'write -P 1 0 256k')
  img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'mid.qcow2')
  io('mid.qcow2', 'write -P 2 128k 256k')
  img('create', '-q', '-f', 'qcow2', '-b', 'mid.qcow2', '-F', 'qcow2', 'top.qcow2')
  img('create', '-q', '-f', 'qcow2', 'over.qcow2', '1M')
  img('create', '-q', '-f', 'qcow2', 'alone.qcow2', '1M')
}

const open: Step[] = [
  qcow2('base.qcow2', 'base', { 'read-only': true, backing: null }),
  qcow2('mid.qcow2', 'mid', { 'read-only': true, backing: 'base' }),
  qcow2('top.qcow2', 'top', { backing: 'mid' }),
]

const nodes = call('query-named-block-nodes')

const status = (id: string, word: string): Step => ({
  awaits: 'JOB_STATUS_CHANGE',
  data: { id, status: word },
})

const serve = (more: object = {}): Step =>
  call('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd.sock' } }, ...more })

const offer = (id: string, more: object = {}): Step =>
  call('block-export-add', { type: 'nbd', id, name: id, 'node-name': 'n', ...more })

const iothread = (node: string, name: string | null, more: object = {}): Step =>
  call('x-blockdev-set-iothread', { 'node-name': node, iothread: name, ...more })

export const chainTranscripts: readonly Transcript[] = [
  {
    name: 'chain',
    prepare: chain,
    steps: [
      call('query-version'),
      ...open,
      call('change-backing-file', { device: 'top', 'image-node-name': 'mid', 'backing-file': 'base.qcow2' }),
      call('change-backing-file', { device: 'top', 'image-node-name': 'mid', 'backing-file': 'é' }),
      call('change-backing-file', {
        ...{ device: 'top', 'image-node-name': 'mid', 'backing-file': 'x'.repeat(1024) },
      }),
      call('change-backing-file', { device: 'top', 'image-node-name': 'mid', 'backing-file': '' }),
      call('block_resize', { 'node-name': 'top', size: 2097152 }),
      call('block_resize', { 'node-name': 'base', size: 2097152 }),
      call('blockdev-snapshot-sync', {
        ...{ 'node-name': 'top', 'snapshot-file': 'DIR/new.qcow2', 'snapshot-node-name': 'new' },
      }),
      nodes,
      call('block-commit', { 'job-id': 'j', device: 'new', 'top-node': 'top', 'base-node': 'mid' }),
      status('j', 'null'),
      nodes,
      call('block-stream', { 'job-id': 'j', device: 'new', 'base-node': 'base', 'backing-file': 'x' }),
      status('j', 'null'),
      nodes,
      call('block-commit', { 'job-id': 'j', device: 'new', 'auto-finalize': false }),
      { awaits: 'BLOCK_JOB_READY' },
      nodes,
      call('job-complete', { id: 'j' }),
      status('j', 'pending'),
      call('job-finalize', { id: 'j' }),
      status('j', 'null'),
      nodes,
      qcow2('over.qcow2', 'over', { backing: null }),
      call('blockdev-snapshot', { node: 'base', overlay: 'over' }),
      call('blockdev-snapshot', { node: 'base', overlay: 'over' }),
      call('x-debug-query-block-graph'),
      call('query-blockstats', { 'query-nodes': true }),
    ],
  },
  {
    name: 'snapshots-and-amending',
    prepare: chain,
    steps: [
      qcow2('alone.qcow2', 'i'),
      call('blockdev-snapshot-internal-sync', { device: 'i', name: 'é 日本' }),
      call('blockdev-snapshot-internal-sync', { device: 'i', name: '1' }),
      call('blockdev-snapshot-internal-sync', { device: 'i-file', name: '1' }),
      call('query-named-block-nodes', { flat: true }),
      call('block_resize', { 'node-name': 'i', size: 512 }),
      call('block_resize', { 'node-name': 'i', size: 2097152 }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'i', id: '1', name: 'zz' }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'i', id: '', name: '1' }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'zz', name: '1' }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'i', id: '1', name: 'é 日本' }),
      call('blockdev-snapshot-delete-internal-sync', { device: 'i', name: '1' }),
      call('x-blockdev-amend', { 'job-id': 'a', 'node-name': 'i', options: { driver: 'qcow2' } }),
      status('a', 'concluded'),
      call('x-blockdev-amend', { 'job-id': 'a', 'node-name': 'i', options: { driver: 'qcow2' } }),
      call('job-dismiss', { id: 'a' }),
      status('a', 'null'),
      call('x-blockdev-amend', {
        ...{ 'job-id': 'a', 'node-name': 'i' },
        options: { driver: 'qcow2', encrypt: { format: 'luks', state: 'active' } },
      }),
      status('a', 'concluded'),
      call('query-jobs'),
      call('job-dismiss', { id: 'a' }),
      status('a', 'null'),
      call('x-blockdev-amend', { 'job-id': '!', 'node-name': 'i', options: { driver: 'qcow2' } }),
      call('query-named-block-nodes', { flat: true }),
    ],
  },
  {
    name: 'serving',
    prepare: chain,
    steps: [
      nullNode('n', { 'read-zeroes': true }),
      nullNode('m', { 'read-only': true }),
      call('object-add', { 'qom-type': 'iothread', id: 't' }),
      iothread('n', 't'),
      iothread('n', 'zz'),
      iothread('zz', null),
      iothread('n', null),
      offer('e'),
      call('nbd-server-add', { device: 'n' }),
      call('nbd-server-remove', { name: 'n' }),
      serve({ 'max-connections': 2 }),
      serve(),
      offer('e', { writable: true, writethrough: true }),
      offer('e'),
      offer('f', { name: 'e' }),
      offer('é'),
      offer(''),
      offer('f', { name: '', description: 'é' }),
      offer('g', { 'node-name': 'zz' }),
      offer('g', { bitmaps: ['é'] }),
      offer('g', { iothread: 'zz' }),
      offer('g', { iothread: 't', 'fixed-iothread': true }),
      iothread('n', 't'),
      iothread('n', null, { force: true }),
      guest('e', 'read 0 4k', 'write 0 4k', 'flush'),
      guest('nope', 'read 0 4k'),
      call('block_resize', { 'node-name': 'n', size: 4096 }),
      call('nbd-server-add', { device: 'm', name: 'm1', writable: true }),
      call('nbd-server-add', { device: 'm', name: 'm2', description: 'é' }),
      call('nbd-server-add', { device: 'm', name: 'm2' }),
      call('nbd-server-add', { device: 'm' }),
      call('query-block-exports'),
      call('blockdev-del', { 'node-name': 'm' }),
      call('nbd-server-remove', { name: 'm2', mode: 'safe' }),
      { awaits: 'BLOCK_EXPORT_DELETED', data: { id: 'm2' } },
      call('nbd-server-remove', { name: 'm2', mode: 'hard' }),
      call('block-export-del', { id: 'm', mode: 'hard' }),
      { awaits: 'BLOCK_EXPORT_DELETED', data: { id: 'm' } },
      call('x-debug-query-block-graph'),
      call('nbd-server-stop'),
      call('nbd-server-stop'),
      iothread('n', null),
      call('object-del', { id: 't' }),
      call('query-blockstats', { 'query-nodes': true }),
    ],
  },
]
