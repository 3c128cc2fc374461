import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type JobSide, OracleDaemon, type Reply, type SeenEvent } from './daemon.js'
import { Ours } from './ours.js'

/**
 * Jobs beside qemu-storage-daemon: the same commands on the same images must get the same answers, tell
 * the same events, and leave images with the same contents and backing files.
 */
const root = mkdtempSync(join(tmpdir(), 'blockgraph-jobs-'))
const template = join(root, 'template')
const start = process.cwd()

function img(folder: string, ...args: string[]): string {
  return execFileSync('qemu-img', args, { cwd: folder, stdio: 'pipe', encoding: 'utf8' })
}

function write(name: string, ...commands: string[]): void {
  execFileSync('qemu-io', [...commands.flatMap((command) => ['-c', command]), name], {
    cwd: template,
    stdio: 'pipe',
  })
}

const images = ['a.qcow2', 'b.qcow2', 'c.qcow2', 't.qcow2']

beforeAll(() => {
  mkdirSync(template)
  img(template, 'create', '-q', '-f', 'qcow2', 'a.qcow2', '2M')
  write('a.qcow2', 'write -P 1 0 256k', 'write -P 2 700k 300k')
  img(template, 'create', '-q', '-f', 'qcow2', '-b', 'a.qcow2', '-F', 'qcow2', 'b.qcow2')
  write('b.qcow2', 'write -P 3 128k 256k', 'write -z 768k 64k')
  img(template, 'create', '-q', '-f', 'qcow2', '-b', 'b.qcow2', '-F', 'qcow2', 'c.qcow2')
  write('c.qcow2', 'write -P 4 64k 100k', 'write -P 5 1900k 20k')
  img(template, 'create', '-q', '-f', 'qcow2', 't.qcow2', '2M')
  img(template, 'create', '-q', '-f', 'qcow2', 's.qcow2', '1M')
})

afterAll(() => {
  process.chdir(start)
  rmSync(root, { recursive: true, force: true })
})

/** A chain of named nodes, and a target. */
const chain = ['a', 'b', 'c'].map((name, at, all) => ({
  ...{ driver: 'qcow2', 'node-name': name, file: { driver: 'file', filename: `${name}.qcow2` } },
  ...(at === 0 ? { backing: null } : { backing: all[at - 1] }),
  ...(at === 2 ? {} : { 'read-only': true }),
}))
const target = {
  ...{ driver: 'qcow2', 'node-name': 't', file: { driver: 'file', filename: 't.qcow2' } },
  discard: 'unmap',
}
const short = { driver: 'qcow2', 'node-name': 's', file: { driver: 'file', filename: 's.qcow2' } }

/** A command, or a status of the job or bytes done to wait for. */
type Step = readonly [command: string, args: object] | { readonly until: string } | { readonly moved: number }

const job = { 'job-id': 'j' }
const over: Step = { until: 'null' }

/** By name: what is done. */
const cases: Record<string, readonly Step[]> = {
  'stream down to a base': [['block-stream', { ...job, device: 'c', 'base-node': 'a' }], over],
  'stream of everything': [['block-stream', { ...job, device: 'c' }], over],
  'stream down to a bottom': [['block-stream', { ...job, device: 'c', bottom: 'c' }], over],
  'stream of an image in the middle, finalized and dismissed by hand': [
    [
      'block-stream',
      { ...job, device: 'b', 'auto-finalize': false, 'auto-dismiss': false, 'filter-node-name': 'f' },
    ],
    { until: 'pending' },
    ['query-jobs', {}],
    ['query-block-jobs', {}],
    ['job-complete', { id: 'j' }],
    ['job-pause', { id: 'j' }],
    ['job-resume', { id: 'j' }],
    ['job-dismiss', { id: 'j' }],
    ['block-job-set-speed', { device: 'j', speed: 7 }],
    ['job-finalize', { id: 'j' }],
    { until: 'concluded' },
    ['query-jobs', {}],
    ['job-cancel', { id: 'j' }],
    ['job-finalize', { id: 'j' }],
    ['job-dismiss', { id: 'j' }],
    ['query-jobs', {}],
    ['job-dismiss', { id: 'j' }],
    ['block-job-cancel', { device: 'j' }],
  ],
  'a stream with another name of the backing file': [
    ['block-stream', { ...job, device: 'c', 'base-node': 'a', 'backing-file': './a.qcow2' }],
    over,
  ],
  'a slow stream is paused and cancelled': [
    ['block-stream', { ...job, device: 'c', speed: 1 }],
    { moved: 65536 },
    ['job-pause', { id: 'j' }],
    { until: 'paused' },
    ['job-pause', { id: 'j' }],
    ['block-job-pause', { device: 'j' }],
    ['job-complete', { id: 'j' }],
    ['job-finalize', { id: 'j' }],
    ['block-job-cancel', { device: 'j' }],
    ['block-job-set-speed', { device: 'j', speed: -1 }],
    ['block-stream', { 'job-id': 'k', device: 'c' }],
    ['blockdev-backup', { 'job-id': 'k', device: 'c', target: 't', sync: 'full' }],
    ['block-job-cancel', { device: 'j', force: true }],
    over,
  ],
  'commit of an image in the middle': [
    ['block-commit', { ...job, device: 'c', 'top-node': 'b', 'base-node': 'a' }],
    over,
  ],
  'a commit with another name of the backing file': [
    ['block-commit', { ...job, device: 'c', 'top-node': 'b', 'base-node': 'a', 'backing-file': './a.qcow2' }],
    over,
  ],
  'commit of the active image': [
    ['block-commit', { ...job, device: 'c', 'base-node': 'a' }],
    { until: 'ready' },
    ['query-jobs', {}],
    ['job-complete', { id: 'j' }],
    over,
  ],
  'commit of the active image, cancelled when it is ready': [
    ['block-commit', { ...job, device: 'c', 'base-node': 'b' }],
    { until: 'ready' },
    ['block-job-cancel', { device: 'j' }],
    over,
  ],
  'a full mirror': [
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'full' }],
    { until: 'ready' },
    ['job-finalize', { id: 'j' }],
    ['job-complete', { id: 'j' }],
    over,
  ],
  'a mirror in write-blocking mode, paused when it is ready': [
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'full', 'copy-mode': 'write-blocking' }],
    { until: 'ready' },
    ['job-pause', { id: 'j' }],
    { until: 'standby' },
    ['job-resume', { id: 'j' }],
    { until: 'ready' },
    ['job-complete', { id: 'j' }],
    over,
  ],
  'a mirror that is cancelled when it is ready': [
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'full' }],
    { until: 'ready' },
    ['block-job-cancel', { device: 'j' }],
    over,
  ],
  'a mirror that is cancelled by force': [
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'full' }],
    { until: 'ready' },
    ['job-cancel', { id: 'j' }],
    over,
  ],
  'a mirror of the top image': [
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'top' }],
    { until: 'ready' },
    ['job-complete', { id: 'j' }],
    over,
  ],
  'mirrors that are refused': [
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'incremental' }],
    ['blockdev-mirror', { ...job, device: 'c', target: 'c', sync: 'full' }],
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'full', 'buf-size': -1 }],
    ['blockdev-mirror', { 'job-id': '1', device: 'c', target: 't', sync: 'full' }],
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'full', granularity: 1000 }],
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'full', granularity: 256 }],
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'full', replaces: 'nobody' }],
    ['blockdev-mirror', { ...job, device: 'c', target: 't', sync: 'full', replaces: 'a' }],
  ],
  'a full backup': [['blockdev-backup', { ...job, device: 'c', target: 't', sync: 'full' }], over],
  'a compressed backup': [
    ['blockdev-backup', { ...job, device: 'c', target: 't', sync: 'full', compress: true }],
    over,
  ],
  'a backup of the top image': [['blockdev-backup', { ...job, device: 'c', target: 't', sync: 'top' }], over],
  'a backup of what will be overwritten': [
    ['blockdev-backup', { ...job, device: 'c', target: 't', sync: 'none' }],
    ['job-complete', { id: 'j' }],
    ['block-job-cancel', { device: 'j' }],
    over,
  ],
  'an incremental backup': [
    ['block-dirty-bitmap-add', { node: 'c', name: 'x' }],
    ['blockdev-backup', { ...job, device: 'c', target: 't', sync: 'incremental', bitmap: 'x' }],
    over,
  ],
  'backups that are refused': [
    ['block-dirty-bitmap-add', { node: 'c', name: 'x' }],
    ['blockdev-backup', { ...job, device: 'c', target: 'c', sync: 'full' }],
    ['blockdev-backup', { ...job, device: 'c', target: 's', sync: 'full' }],
    ['blockdev-backup', { ...job, device: 'c', target: 't', sync: 'bitmap' }],
    ['blockdev-backup', { ...job, device: 'c', target: 't', sync: 'full', 'bitmap-mode': 'never' }],
    ['blockdev-backup', { ...job, device: 'c', target: 't', sync: 'bitmap', bitmap: 'x' }],
    [
      'blockdev-backup',
      { ...job, device: 'c', target: 't', sync: 'incremental', bitmap: 'x', 'bitmap-mode': 'never' },
    ],
    [
      'blockdev-backup',
      { ...job, device: 'c', target: 't', sync: 'full', bitmap: 'y', 'bitmap-mode': 'always' },
    ],
    [
      'blockdev-backup',
      { ...job, device: 'c', target: 't', sync: 'none', bitmap: 'x', 'bitmap-mode': 'always' },
    ],
    [
      'blockdev-backup',
      { ...job, device: 'c', target: 't', sync: 'full', bitmap: 'x', 'bitmap-mode': 'never' },
    ],
  ],
  create: [
    ['blockdev-create', { ...job, options: { driver: 'file', filename: 'n.qcow2', size: 0 } }],
    { until: 'concluded' },
    ['query-jobs', {}],
    ['job-dismiss', { id: 'j' }],
    ['blockdev-create', { ...job, options: { driver: 'qcow2', file: 'nobody', size: 1048576 } }],
    { until: 'concluded' },
    ['query-jobs', {}],
    ['job-dismiss', { id: 'j' }],
    ['blockdev-create', { ...job, options: { driver: 'raw' } }],
    [
      'x-blockdev-amend',
      { ...job, 'node-name': 's', options: { driver: 'luks', state: 'active', 'new-secret': 'x' } },
    ],
  ],
}

async function until(side: JobSide, wanted: string, id: string, from: number): Promise<number> {
  for (let waits = 0; ; waits++) {
    const at = side.events.findIndex(
      ({ event, data }, index) =>
        index >= from && event === 'JOB_STATUS_CHANGE' && data.id === id && data.status === wanted,
    )
    if (at >= 0) {
      return at + 1
    }
    if (waits > 2000) {
      throw new Error(`the job does not get ${wanted}: ${JSON.stringify(side.events)}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

async function untilMoved(side: JobSide, bytes: number): Promise<void> {
  for (let waits = 0; waits < 2000; waits++) {
    const reply = await side.execute('query-jobs', {})
    const [first] = 'return' in reply ? (reply.return as { 'current-progress': number }[]) : []
    if ((first?.['current-progress'] ?? 0) >= bytes) {
      return
    }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  throw new Error(`the job does not move ${bytes} bytes`)
}

async function play(
  side: JobSide,
  steps: readonly Step[],
): Promise<{ replies: Reply[]; events: SeenEvent[] }> {
  const replies: Reply[] = []
  let seen = 0
  for (const step of steps) {
    if ('until' in step) {
      seen = await until(side, step.until, 'j', seen)
    } else if ('moved' in step) {
      await untilMoved(side, step.moved)
    } else {
      replies.push(await side.execute(...step))
    }
  }
  await side.close()
  return { replies, events: side.events }
}

/** The chain of each image by the names in the headers, and whether it is sound. */
function state(folder: string): object[] {
  return images.map((name) => {
    const info = JSON.parse(img(folder, 'info', '--output=json', name)) as Record<string, unknown>
    const check = JSON.parse(img(folder, 'check', '--output=json', name)) as Record<string, unknown>
    const { 'backing-filename': backing, 'backing-filename-format': format } = info
    return { name, backing, format, size: info['virtual-size'], corruptions: check.corruptions }
  })
}

for (const [name, steps] of Object.entries(cases)) {
  test(name, async () => {
    const folders = ['theirs', 'ours'].map((side) => join(root, name.replaceAll(' ', '-'), side)) as [
      string,
      string,
    ]
    for (const folder of folders) {
      cpSync(template, folder, { recursive: true })
    }
    const nodes = [...chain, target, short]
    const theirs = await play(await OracleDaemon.start(folders[0], nodes), steps)
    process.chdir(folders[1])
    const ours = await play(await Ours.start(nodes), steps)
    expect(ours.replies).toEqual(theirs.replies)
    expect(ours.events).toEqual(theirs.events)
    expect(state(folders[1])).toEqual(state(folders[0]))
    for (const image of images) {
      expect(img(root, 'compare', join(folders[0], image), join(folders[1], image))).toBe(
        'Images are identical.\n',
      )
    }
  })
}
