import { file, none, nullNode, type Prepare, qcow2 } from '../same.js'
import { call, type Step } from '../transcript.js'
import type { Transcript } from './transcript-type.js'

const disks: Prepare = (img) => {
  img('create', '-q', '-f', 'qcow2', 'base.qcow2', '1M')
  img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2')
  img('create', '-q', '-f', 'raw', 'disk.raw', '1M')
  img('create', '-q', '-f', 'qcow2', 'plain.qcow2', '1M')
}

const reopen = (...options: object[]): Step => call('blockdev-reopen', { options })

const image = { driver: 'file', filename: 'DIR/a.img', 'node-name': 'a' }

/** Makes an image in the file node `a`. */
const create = (options: object): Step[] => [
  call('blockdev-create', { 'job-id': 'c', options: { file: 'a', size: 1048576, ...options } }),
  { awaits: 'JOB_STATUS_CHANGE', data: { id: 'c', status: 'concluded' } },
  call('query-jobs'),
  call('job-dismiss', { id: 'c' }),
  { awaits: 'JOB_STATUS_CHANGE', data: { id: 'c', status: 'null' } },
]

const added = (driver: string): Step[] => [
  call('blockdev-add', { driver, 'node-name': 'i', file: 'a' }),
  call('query-named-block-nodes', { flat: true }),
  call('blockdev-del', { 'node-name': 'i' }),
]

export const nodeTranscripts: readonly Transcript[] = [
  {
    name: 'reopening',
    prepare: disks,
    steps: [
      qcow2('base.qcow2', 'base', { 'read-only': true }),
      qcow2('top.qcow2', 'top', { backing: 'base' }),
      call('blockdev-add', { ...file('disk.raw'), 'node-name': 'raw-file' }),
      call('blockdev-add', { driver: 'raw', 'node-name': 'raw', file: 'raw-file' }),
      nullNode('null'),
      reopen({ driver: 'file', 'node-name': 'raw-file', filename: 'DIR/other.raw' }),
      reopen({ driver: 'file', 'node-name': 'raw-file', filename: 'DIR/disk.raw', 'read-only': true }),
      reopen({ driver: 'raw', 'node-name': 'raw', file: 'null' }),
      reopen({ driver: 'raw', 'node-name': 'raw', file: 'raw-file' }),
      reopen({ driver: 'raw', 'node-name': 'raw', file: 'zz' }),
      reopen({ driver: 'raw', 'node-name': 'raw', file: 'raw-file', size: 512 }),
      reopen({ driver: 'raw', 'node-name': 'raw', file: 'raw-file', offset: 7 }),
      reopen({ driver: 'null-co', 'node-name': 'null', size: 1048576, 'detect-zeroes': 'on' }),
      reopen({ driver: 'null-co', 'node-name': 'null', size: 1048576, 'detect-zeroes': 'unmap' }),
      reopen({ driver: 'null-co', 'node-name': 'null', size: 7 }),
      reopen({ driver: 'qcow2', 'node-name': 'top', file: 'top-file', 'l2-cache-size': 1 }),
      reopen({
        ...{ driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: 'base' },
        ...{ 'l2-cache-size': 1, 'cache-size': 0 },
      }),
      reopen({
        ...{ driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: 'base' },
        'lazy-refcounts': true,
      }),
      reopen({ driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: 'top' }),
      reopen({ driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: 'zz' }),
      reopen({ driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: 'null' }),
      reopen(
        { driver: 'raw', 'node-name': 'raw', file: 'raw-file', 'read-only': true },
        { driver: 'qcow2', 'node-name': 'zz', file: 'top-file' },
      ),
      reopen(
        { driver: 'raw', 'node-name': 'raw', file: 'raw-file', 'read-only': true },
        { driver: 'qcow2', 'node-name': 'base', file: 'base-file', backing: 'top' },
      ),
      call('query-named-block-nodes', { flat: true }),
      call('x-debug-query-block-graph'),
      call('query-block'),
      call('query-blockstats'),
    ],
  },
  {
    name: 'creating',
    prepare: none,
    steps: [
      call('blockdev-create', {
        'job-id': 'c',
        options: { driver: 'file', filename: 'DIR/a.img', size: 0 },
      }),
      { awaits: 'JOB_STATUS_CHANGE', data: { id: 'c', status: 'concluded' } },
      call('blockdev-create', {
        'job-id': 'c',
        options: { driver: 'file', filename: 'DIR/a.img', size: 0 },
      }),
      call('job-dismiss', { id: 'c' }),
      { awaits: 'JOB_STATUS_CHANGE', data: { id: 'c', status: 'null' } },
      call('blockdev-add', image),
      ...['qcow2', 'vdi', 'vpc', 'qed', 'parallels', 'qcow', 'vhdx'].flatMap((driver) => [
        ...create({ driver }),
        ...(driver === 'vhdx' ? [] : added(driver)),
      ]),
      ...create({ driver: 'vdi', preallocation: 'full' }),
      ...create({ driver: 'vpc', size: 3 << 40 }),
      ...create({ driver: 'vhdx', 'block-size': 7 }),
      ...create({ driver: 'vhdx', 'log-size': 7 }),
      ...create({ driver: 'qed', 'cluster-size': 7 }),
      ...create({ driver: 'qed', 'table-size': 3 }),
      ...create({ driver: 'parallels', 'cluster-size': 7 }),
      ...create({ driver: 'qcow2', size: 7 }),
      ...create({ driver: 'qcow2', preallocation: 'metadata', 'backing-file': 'x', 'backing-fmt': 'raw' }),
      ...create({ driver: 'qcow2', 'data-file-raw': true }),
      ...create({ driver: 'qcow2', version: 'v2', 'refcount-bits': 1 }),
      ...create({ driver: 'qcow2', 'extended-l2': true, 'cluster-size': 4096 }),
      ...create({ driver: 'luks' }),
      call('blockdev-create', { 'job-id': 'c', options: { driver: 'nbd' } }),
      call('blockdev-create', { 'job-id': '-', options: { driver: 'vdi', file: 'a', size: 0 } }),
      call('blockdev-create', { 'job-id': '', options: { driver: 'vdi', file: 'a', size: 0 } }),
      call('blockdev-create', { 'job-id': 'c', options: { driver: 'vdi', file: { driver: 'x' }, size: 0 } }),
    ],
  },
  {
    name: 'opening',
    prepare: disks,
    steps: [
      ...[
        'qcow2',
        'qed',
        'vdi',
        'vpc',
        'vmdk',
        'vhdx',
        'parallels',
        'qcow',
        'bochs',
        'cloop',
        'dmg',
        'luks',
      ].map((driver) => call('blockdev-add', { driver, 'node-name': 'a', file: file('disk.raw') })),
      call('blockdev-add', { driver: 'file', 'node-name': 'a', filename: 'DIR' }),
      call('blockdev-add', { driver: 'file', 'node-name': 'a', filename: '' }),
      call('blockdev-add', { driver: 'file', 'node-name': 'a', filename: 'DIR/disk.raw', locking: 'on' }),
      call('blockdev-add', { driver: 'file', 'node-name': 'b', filename: 'DIR/disk.raw' }),
      call('blockdev-add', { driver: 'raw', 'node-name': 'r', file: 'a' }),
      call('blockdev-add', { driver: 'raw', 'node-name': 's', file: 'a' }),
      call('blockdev-add', { driver: 'raw', 'node-name': 's', file: 'r' }),
      call('blockdev-add', { driver: 'raw', 'node-name': 't', file: 'r' }),
      call('blockdev-add', { driver: 'qcow2', 'node-name': 'q', file: file('plain.qcow2'), backing: 'a' }),
      call('blockdev-add', { driver: 'qcow2', 'node-name': 'q', file: file('plain.qcow2'), backing: 'zz' }),
      call('blockdev-add', {
        ...{ driver: 'qcow2', 'node-name': 'q', file: file('plain.qcow2') },
        encrypt: { format: 'luks', 'key-secret': 'zz' },
      }),
      call('blockdev-add', { driver: 'nbd', 'node-name': 'n', server: { type: 'unix', path: 'DIR/gone' } }),
      call('blockdev-add', { driver: 'compress', 'node-name': 'c', file: 'a' }),
      call('blockdev-add', { driver: 'blkverify', 'node-name': 'v', test: 'a', raw: 'zz' }),
      call('blockdev-add', { driver: 'copy-before-write', 'node-name': 'v', file: 's', target: 'zz' }),
      call('blockdev-add', { driver: 'preallocate', 'node-name': 'p', file: 's' }),
      call('query-named-block-nodes', { flat: true }),
      call('blockdev-del', { 'node-name': 'r' }),
      call('query-named-block-nodes'),
    ],
  },
  {
    name: 'character-devices',
    prepare: none,
    steps: [
      call('chardev-change', { id: 'zz', backend: { type: 'null', data: {} } }),
      call('chardev-change', { id: 'monitor0', backend: { type: 'null', data: {} } }),
      call('chardev-add', { id: 'n', backend: { type: 'null', data: {} } }),
      call('chardev-change', { id: 'n', backend: { type: 'ringbuf', data: { size: 16 } } }),
      call('ringbuf-write', { device: 'n', data: 'é日' }),
      call('ringbuf-read', { device: 'n', size: 2 }),
      call('ringbuf-read', { device: 'n', size: 16, format: 'base64' }),
      call('ringbuf-write', { device: 'n', data: '*', format: 'base64' }),
      call('ringbuf-write', { device: 'n', data: 'abcdefghijklmnopqrstuvwxyz' }),
      call('ringbuf-read', { device: 'n', size: 100, format: 'utf8' }),
      call('chardev-add', { id: 'f', backend: { type: 'file', data: { out: '/nonexist/x' } } }),
      call('chardev-add', { id: 'f', backend: { type: 'file', data: { out: 'DIR/log' } } }),
      call('chardev-add', { id: '0', backend: { type: 'null', data: {} } }),
      call('chardev-add', { id: 's', backend: { type: 'socket', data: {} } }),
      call('chardev-add', {
        ...{ id: 's' },
        backend: { type: 'socket', data: { addr: { type: 'unix', data: { path: '/nonexist/s' } } } },
      }),
      call('chardev-add', {
        ...{ id: 's' },
        backend: {
          type: 'socket',
          data: { addr: { type: 'unix', data: { path: 'DIR/s' } }, server: true, wait: false },
        },
      }),
      ...['n', 'f', 's', 'zz'].map((id) => call('chardev-send-break', { id })),
      ...['n', 'f', 's'].map((id) => call('chardev-remove', { id })),
    ],
  },
]
