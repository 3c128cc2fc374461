import { file, type Prepare } from '../same.js'
import { call, type Step } from '../transcript.js'
import type { Transcript } from './transcript-type.js'

/** What becomes of jobs whose requests fail. */

const disks: Prepare = (img, io) => {
  img('create', '-q', '-f', 'raw', 'source.raw', '256k')
  io('source.raw', 'write -P 1 0 256k')
  img('create', '-q', '-f', 'raw', 'target.raw', '256k')
  img('create', '-q', '-f', 'qcow2', '-b', 'source.raw', '-F', 'raw', 'top.qcow2')
  img('create', '-q', '-f', 'qcow2', 'free.qcow2', '256k')
}

const status = (word: string): Step => ({ awaits: 'JOB_STATUS_CHANGE', data: { id: 'j', status: word } })

/** A raw image one of whose requests fails. */
const flaky = (node: string, image: string, iotype: string, errno: number): Step =>
  call('blockdev-add', {
    driver: 'blkdebug',
    'node-name': node,
    image: { driver: 'file', filename: `DIR/${image}` },
    'inject-error': [{ event: 'none', iotype, errno, once: true }],
  })

const plain = (node: string, image: string): Step =>
  call('blockdev-add', { driver: 'raw', 'node-name': node, file: file(image) })

interface Kind {
  /** From the top down. */
  readonly nodes: readonly string[]
  readonly open: (errno: number) => Step[]
  readonly start: (policy: string) => Step
}

const kinds: Readonly<Record<string, Kind>> = {
  'mirror-source': {
    nodes: ['source', 'target'],
    open: (errno) => [flaky('source', 'source.raw', 'read', errno), plain('target', 'target.raw')],
    start: (policy) =>
      call('blockdev-mirror', {
        ...{ 'job-id': 'j', device: 'source', target: 'target', sync: 'full', 'auto-dismiss': false },
        'on-source-error': policy,
      }),
  },
  'mirror-target': {
    nodes: ['source', 'target'],
    open: (errno) => [plain('source', 'source.raw'), flaky('target', 'target.raw', 'write', errno)],
    start: (policy) =>
      call('blockdev-mirror', {
        ...{ 'job-id': 'j', device: 'source', target: 'target', sync: 'full', 'auto-dismiss': false },
        'on-target-error': policy,
      }),
  },
  'backup-source': {
    nodes: ['source', 'target'],
    open: (errno) => [flaky('source', 'source.raw', 'read', errno), plain('target', 'target.raw')],
    start: (policy) =>
      call('blockdev-backup', {
        ...{ 'job-id': 'j', device: 'source', target: 'target', sync: 'full', 'auto-dismiss': false },
        'on-source-error': policy,
      }),
  },
  'backup-target': {
    nodes: ['source', 'target'],
    open: (errno) => [plain('source', 'source.raw'), flaky('target', 'target.raw', 'write', errno)],
    start: (policy) =>
      call('blockdev-backup', {
        ...{ 'job-id': 'j', device: 'source', target: 'target', sync: 'full', 'auto-dismiss': false },
        'on-target-error': policy,
      }),
  },
}

const stops = (policy: string, errno: number): boolean =>
  policy === 'stop' || (errno === 28 && policy !== 'report' && policy !== 'ignore')

/** A job that meets an error, to its end; then everything is as before. */
function play(kind: Kind, isMirror: boolean, policy: string, errno: number): Step[] {
  const willEnd = stops(policy, errno) || policy === 'ignore'
  return [
    ...kind.open(errno),
    kind.start(policy),
    { awaits: 'BLOCK_JOB_ERROR' },
    ...(stops(policy, errno)
      ? [
          status('paused'),
          call('query-jobs'),
          call('query-block-jobs'),
          call('job-complete', { id: 'j' }),
          call('job-pause', { id: 'j' }),
          call('job-resume', { id: 'j' }),
        ]
      : []),
    ...(isMirror && willEnd
      ? [{ awaits: 'BLOCK_JOB_READY' } as const, call('query-block-jobs'), call('job-complete', { id: 'j' })]
      : []),
    status('concluded'),
    call('query-jobs'),
    call('query-block-jobs'),
    call('job-dismiss', { id: 'j' }),
    status('null'),
    ...kind.nodes.map((node) => call('blockdev-del', { 'node-name': node })),
    call('query-named-block-nodes'),
  ]
}

const EIO = 5
const ENOSPC = 28

const policies: Readonly<Record<string, readonly (readonly [policy: string, errno: number])[]>> = {
  'mirror-source': [
    ['stop', EIO],
    ['ignore', EIO],
    ['enospc', EIO],
  ],
  'mirror-target': [
    ['report', EIO],
    ['enospc', ENOSPC],
    ['auto', EIO],
  ],
  'backup-source': [
    ['stop', EIO],
    ['enospc', EIO],
  ],
  'backup-target': [
    ['ignore', ENOSPC],
    ['auto', ENOSPC],
  ],
}

export const policyTranscripts: readonly Transcript[] = Object.entries(kinds).map(([name, kind]) => ({
  name: `policies-${name}`,
  prepare: disks,
  steps: (policies[name] ?? []).flatMap(([policy, errno]) =>
    play(kind, name.startsWith('mirror'), policy, errno),
  ),
}))
