import { file, type Prepare, qcow2 } from '../same.js'
import { call, guest, type Step } from '../transcript.js'
import type { Transcript } from './transcript-type.js'

const disks: Prepare = (img, io) => {
  img('create', '-q', '-f', 'qcow2', 'base.qcow2', '4M')
  io('base.qcow2', 'write -P 1 0 4M')
  img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2')
  img('create', '-q', '-f', 'raw', 'target.raw', '4M')
  img('create', '-q', '-f', 'raw', 'other.raw', '4M')
}

const open: Step[] = [
  qcow2('base.qcow2', 'base', { 'read-only': true }),
  qcow2('top.qcow2', 'top', { backing: 'base' }),
  ...['target', 'other'].map((name) =>
    call('blockdev-add', { driver: 'raw', 'node-name': name, file: file(`${name}.raw`) }),
  ),
]

const status = (id: string, word: string): Step => ({
  awaits: 'JOB_STATUS_CHANGE',
  data: { id, status: word },
})

/** Verbs that the state of a job refuses, by both names. */
const job = (verbs: readonly string[], id = 'j'): Step[] => verbs.map((verb) => call(`job-${verb}`, { id }))
const blockJob = (verbs: readonly string[], id = 'j'): Step[] =>
  verbs.map((verb) =>
    call(`block-job-${verb}`, verb === 'finalize' || verb === 'dismiss' ? { id } : { device: id }),
  )

const speed = (bytes: number): Step => call('block-job-set-speed', { device: 'j', speed: bytes })

const mirror = (more: object = {}): Step =>
  call('blockdev-mirror', { 'job-id': 'j', device: 'top', target: 'target', sync: 'full', ...more })

const backup = (more: object = {}): Step =>
  call('blockdev-backup', { 'job-id': 'j', device: 'top', target: 'target', sync: 'full', ...more })

const bitmap = (verb: string, name: string, more: object = {}): Step =>
  call(`block-dirty-bitmap-${verb}`, { node: 'top', name, ...more })

const action = (type: string, data: object): object => ({ type, data })
const transaction = (actions: readonly object[], mode?: string): Step =>
  call('transaction', {
    actions,
    ...(mode === undefined ? {} : { properties: { 'completion-mode': mode } }),
  })

export const jobTranscripts: readonly Transcript[] = [
  {
    name: 'verbs-ready',
    prepare: disks,
    steps: [
      ...open,
      mirror({ 'auto-finalize': false, 'auto-dismiss': false }),
      { awaits: 'BLOCK_JOB_READY' },
      ...job(['finalize', 'dismiss', 'resume']),
      ...blockJob(['finalize', 'dismiss', 'resume']),
      call('query-jobs'),
      call('x-debug-query-block-graph'),
      mirror(),
      mirror({ 'job-id': 'k' }),
      backup({ 'job-id': 'k', target: 'other' }),
      call('block_resize', { 'node-name': 'top', size: 8388608 }),
      call('block_resize', { 'node-name': 'target', size: 8388608 }),
      call('blockdev-snapshot', { node: 'top', overlay: 'other' }),
      ...['top', 'base', 'target'].map((node) => call('blockdev-del', { 'node-name': node })),
      speed(-1),
      speed(1000000),
      speed(0),
      ...blockJob(['pause']),
      status('j', 'standby'),
      call('query-block-jobs'),
      ...blockJob(['pause', 'finalize', 'dismiss', 'complete']),
      ...blockJob(['resume']),
      status('j', 'pending'),
      call('query-jobs'),
      ...job(['pause', 'resume', 'complete', 'dismiss']),
      ...blockJob(['pause', 'resume', 'complete', 'dismiss']),
      speed(1),
      ...blockJob(['finalize']),
      status('j', 'concluded'),
      call('query-jobs'),
      ...job(['pause', 'resume', 'complete', 'finalize', 'cancel']),
      ...blockJob(['pause', 'resume', 'complete', 'finalize', 'cancel']),
      speed(1),
      ...blockJob(['dismiss']),
      status('j', 'null'),
      ...blockJob(['dismiss']),
      call('query-block-jobs'),
    ],
  },
  {
    name: 'verbs-running',
    prepare: disks,
    steps: [
      ...open,
      backup({ speed: 65536, 'auto-dismiss': false }),
      status('j', 'running'),
      ...job(['complete', 'finalize', 'dismiss', 'resume']),
      ...blockJob(['complete', 'finalize', 'dismiss', 'resume']),
      bitmap('add', 'b'),
      backup({ 'job-id': 'k', sync: 'incremental', bitmap: 'b', target: 'target' }),
      backup({ target: 'other' }),
      call('block-job-cancel', { device: 'j', force: true }),
      status('j', 'concluded'),
      call('query-block-jobs'),
      ...job(['dismiss']),
      status('j', 'null'),
      backup({ speed: 65536 }),
      status('j', 'running'),
      call('job-cancel', { id: 'j' }),
      status('j', 'null'),
      call('query-jobs'),
    ],
  },
  {
    name: 'bitmaps-in-use',
    prepare: disks,
    steps: [
      ...open,
      bitmap('add', 'b', { granularity: 65536 }),
      bitmap('add', 'p', { persistent: true }),
      call('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd.sock' } } }),
      call('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'top', writable: true }),
      guest('top', 'write -P 7 0 64k', 'write -P 7 1M 64k'),
      call('query-named-block-nodes', { flat: true }),
      call('x-debug-block-dirty-bitmap-sha256', { node: 'top', name: 'b' }),
      backup({ sync: 'bitmap', 'bitmap-mode': 'always', bitmap: 'b', 'auto-finalize': false }),
      status('j', 'pending'),
      ...['remove', 'clear', 'enable', 'disable'].map((verb) => bitmap(verb, 'b')),
      call('block-dirty-bitmap-merge', { node: 'top', target: 'b', bitmaps: ['p'] }),
      call('block-dirty-bitmap-merge', { node: 'top', target: 'p', bitmaps: ['b'] }),
      call('block-export-add', { type: 'nbd', id: 'f', name: 'f', 'node-name': 'top', bitmaps: ['b'] }),
      backup({ 'job-id': 'k', target: 'other', sync: 'incremental', bitmap: 'b' }),
      transaction([action('block-dirty-bitmap-remove', { node: 'top', name: 'b' })]),
      transaction([action('block-dirty-bitmap-clear', { node: 'top', name: 'b' })]),
      guest('top', 'write -P 8 2M 64k'),
      ...job(['finalize']),
      status('j', 'null'),
      call('query-named-block-nodes', { flat: true }),
      call('x-debug-block-dirty-bitmap-sha256', { node: 'top', name: 'b' }),
      bitmap('disable', 'p'),
      call('block-export-add', { type: 'nbd', id: 'f', name: 'f', 'node-name': 'top', bitmaps: ['p'] }),
      bitmap('remove', 'p'),
      bitmap('clear', 'p'),
      call('block-export-del', { id: 'f', mode: 'hard' }),
      { awaits: 'BLOCK_EXPORT_DELETED' },
      bitmap('remove', 'p'),
      call('block-dirty-bitmap-merge', { node: 'top', target: 'b', bitmaps: ['b'] }),
      call('block-dirty-bitmap-merge', { node: 'top', target: 'b', bitmaps: [] }),
    ],
  },
  {
    name: 'transactions',
    prepare: disks,
    steps: [
      ...open,
      transaction([
        action('blockdev-snapshot-sync', {
          ...{ 'node-name': 'top', 'snapshot-file': 'DIR/over.qcow2', 'snapshot-node-name': 'over' },
        }),
        action('abort', {}),
      ]),
      call('query-named-block-nodes', { flat: true }),
      transaction([action('blockdev-snapshot-sync', { 'snapshot-file': 'DIR/over.qcow2' })]),
      transaction([action('blockdev-snapshot-internal-sync', { device: 'target', name: 's' })]),
      transaction([action('blockdev-snapshot-internal-sync', { device: 'base', name: 's' })]),
      transaction([action('blockdev-snapshot', { node: 'zz', overlay: 'top' })]),
      transaction([action('drive-backup', { device: 'zz', target: 'x', sync: 'full' })]),
      transaction([
        action('drive-backup', { 'job-id': 'd', device: 'top', target: '/nonexist/x', sync: 'full' }),
      ]),
      transaction([
        action('block-dirty-bitmap-add', { node: 'top', name: 'n' }),
        action('block-dirty-bitmap-add', { node: 'top', name: 'n' }),
      ]),
      transaction([
        action('block-dirty-bitmap-add', { node: 'top', name: 'n' }),
        action('block-dirty-bitmap-enable', { node: 'top', name: 'zz' }),
      ]),
      transaction([
        action('block-dirty-bitmap-add', { node: 'top', name: 'n', disabled: true }),
        action('block-dirty-bitmap-enable', { node: 'top', name: 'n' }),
        action('block-dirty-bitmap-merge', { node: 'top', target: 'n', bitmaps: ['n'] }),
      ]),
      call('query-named-block-nodes', { flat: true }),
      transaction(
        [
          action('blockdev-backup', { 'job-id': 'a', device: 'top', target: 'target', sync: 'full' }),
          action('blockdev-backup', { 'job-id': 'b', device: 'top', target: 'top', sync: 'full' }),
        ],
        'grouped',
      ),
      transaction([action('abort', {})], 'grouped'),
      transaction(
        [
          action('blockdev-backup', {
            ...{ 'job-id': 'a', device: 'top', target: 'target', sync: 'full' },
            'auto-finalize': false,
          }),
        ],
        'individual',
      ),
      status('a', 'pending'),
      call('job-cancel', { id: 'a' }),
      status('a', 'null'),
      transaction([
        action('blockdev-snapshot-sync', {
          ...{ 'node-name': 'top', 'snapshot-file': 'DIR/over.qcow2', 'snapshot-node-name': 'over' },
        }),
      ]),
      call('query-named-block-nodes', { flat: true }),
      call('query-blockstats', { 'query-nodes': true }),
    ],
  },
  {
    name: 'drive-mirror',
    prepare: disks,
    steps: [
      ...open,
      ...[
        { device: 'zz', target: 'DIR/x', sync: 'full' },
        { device: 'base', target: 'DIR/x', sync: 'full' },
        { target: '/nonexist/x', sync: 'full' },
        { target: 'DIR/x', sync: 'full', format: 'nope' },
        { target: 'DIR/x', sync: 'full', format: 'dmg' },
        { target: 'DIR/gone', sync: 'full', mode: 'existing' },
        { target: 'DIR/x.qcow2', sync: 'full', 'node-name': 'top' },
        { target: 'DIR/x.qcow2', sync: 'full', replaces: 'base' },
        { target: 'DIR/x.qcow2', sync: 'full', replaces: 'zz', 'node-name': 'new' },
        { target: 'DIR/x.qcow2', sync: 'full', granularity: 100 },
        { target: 'DIR/x.qcow2', sync: 'bitmap' },
        { target: 'DIR/x.qcow2', sync: 'incremental' },
        { target: 'DIR/x.qcow2', sync: 'full', speed: -1 },
        { target: 'DIR/x.qcow2', sync: 'full', 'buf-size': -1 },
      ].map((args) => call('drive-mirror', { 'job-id': 'j', device: 'top', ...args })),
      call('drive-mirror', { device: 'top', target: 'DIR/x.qcow2', sync: 'full' }),
      call('drive-mirror', {
        ...{ 'job-id': 'j', device: 'top', target: 'DIR/y.qcow2', sync: 'none', 'node-name': 'new' },
        ...{ format: 'qcow2', unmap: false, 'auto-dismiss': false },
      }),
      { awaits: 'BLOCK_JOB_READY' },
      call('query-named-block-nodes', { flat: true }),
      call('block-job-complete', { device: 'j' }),
      status('j', 'concluded'),
      call('job-dismiss', { id: 'j' }),
      status('j', 'null'),
      call('drive-backup', { 'job-id': 'j', device: 'top', target: 'DIR/z.qcow2', sync: 'none' }),
      status('j', 'running'),
      call('block-job-cancel', { device: 'j' }),
      status('j', 'null'),
      ...[
        { device: 'zz', target: 'DIR/x', sync: 'full' },
        { target: 'DIR/x', sync: 'full', format: 'nope' },
        { target: 'DIR/gone', sync: 'full', mode: 'existing' },
        { target: 'DIR/x.qcow2', sync: 'incremental' },
        { target: 'DIR/x.qcow2', sync: 'full', 'x-perf': { 'max-workers': 0 } },
      ].map((args) => call('drive-backup', { 'job-id': 'j', device: 'top', ...args })),
    ],
  },
]
