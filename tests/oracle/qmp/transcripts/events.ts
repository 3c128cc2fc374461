import { closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { file, type Prepare, qcow2 } from '../same.js'
import { call, guest, type Step } from '../transcript.js'
import type { Transcript } from './transcript-type.js'

function poke(path: string, offset: number, bytes: readonly number[]): void {
  const fd = openSync(path, 'r+')
  writeSync(fd, new Uint8Array(bytes), 0, bytes.length, offset)
  closeSync(fd)
}

const serve = call('nbd-server-start', { addr: { type: 'unix', data: { path: 'DIR/nbd.sock' } } })

const offer = (node: string, more: object = {}): Step =>
  call('block-export-add', { type: 'nbd', id: node, 'node-name': node, writable: true, ...more })

const nodes = call('query-named-block-nodes', { flat: true })

const raw = (image: string, node: string): Step =>
  call('blockdev-add', {
    driver: 'raw',
    'node-name': node,
    file: file(image, { 'node-name': `${node}-file` }),
  })

const limit = (node: string, bytes: number): Step =>
  call('block-set-write-threshold', { 'node-name': node, 'write-threshold': bytes })

const rawDisk: Prepare = (img) => img('create', '-q', '-f', 'raw', 'disk.raw', '1M')

/** An image with one cluster of data, whose L2 entry then points beside a cluster. */
const damaged: Prepare = (img, io, dir) => {
  img('create', '-q', '-f', 'qcow2', 'bad.qcow2', '1M')
  io('bad.qcow2', 'write -P 1 0 64k')
  // The first L2 table is the fifth cluster.
  poke(join(dir, 'bad.qcow2'), 4 * 65536, [0x80, 0, 0, 0, 0, 5, 2, 0])
}

const three: Prepare = (img, io) => {
  for (const [name, pattern] of [
    ['a', 1],
    ['b', 1],
    ['c', 2],
    ['d', 3],
  ] as const) {
    img('create', '-q', '-f', 'raw', `${name}.raw`, '64k')
    io(`${name}.raw`, `write -P ${pattern} 0 64k`)
  }
}

const quorum = (node: string, names: readonly string[], more: object = {}): Step =>
  call('blockdev-add', {
    driver: 'quorum',
    'node-name': node,
    'vote-threshold': 2,
    children: names.map((name) => `node-${name}`),
    ...more,
  })

const failing = (name: string, iotype: string): Step =>
  call('blockdev-add', {
    driver: 'blkdebug',
    'node-name': `node-${name}`,
    image: { driver: 'raw', file: file(`${name}.raw`) },
    'inject-error': [{ event: 'none', iotype, errno: 5 }],
  })

export const eventTranscripts: readonly Transcript[] = [
  {
    name: 'write-threshold',
    prepare: rawDisk,
    steps: [
      raw('disk.raw', 'd'),
      serve,
      offer('d'),
      limit('d-file', 65536),
      guest('d', 'write 0 64k'),
      nodes,
      guest('d', 'write 64k 4k'),
      { awaits: 'BLOCK_WRITE_THRESHOLD', data: { 'node-name': 'd-file' } },
      nodes,
      guest('d', 'write 128k 4k'),
      limit('d-file', 4096),
      limit('d-file', 0),
      guest('d', 'write 0 64k'),
      limit('d', 1000),
      guest('d', 'read 0 64k', 'write 512 1k'),
      { awaits: 'BLOCK_WRITE_THRESHOLD', data: { 'node-name': 'd' } },
      limit('gone', 0),
      call('block-export-del', { id: 'd', mode: 'hard' }),
      { awaits: 'BLOCK_EXPORT_DELETED' },
      call('block-export-del', { id: 'd' }),
    ],
  },
  {
    name: 'corrupted',
    prepare: damaged,
    steps: [
      qcow2('bad.qcow2', 'bad'),
      serve,
      offer('bad'),
      guest('bad', 'read 64k 64k'),
      guest('bad', 'read 0 4k'),
      { awaits: 'BLOCK_IMAGE_CORRUPTED', data: { 'node-name': 'bad' } },
      nodes,
      guest('bad', 'read 0 4k'),
      guest('bad', 'write 0 4k'),
      call('nbd-server-stop'),
      { awaits: 'BLOCK_EXPORT_DELETED' },
      call('blockdev-del', { 'node-name': 'bad' }),
      qcow2('bad.qcow2', 'bad'),
      qcow2('bad.qcow2', 'bad', { 'read-only': true }),
      nodes,
    ],
  },
  {
    name: 'corrupted-read-only',
    prepare: damaged,
    steps: [
      qcow2('bad.qcow2', 'bad', { 'read-only': true }),
      serve,
      offer('bad'),
      offer('bad', { writable: false }),
      guest('bad', 'read 0 4k'),
      { awaits: 'BLOCK_IMAGE_CORRUPTED', data: { 'node-name': 'bad', fatal: false } },
      nodes,
      guest('bad', 'read 0 4k'),
    ],
  },
  {
    name: 'quorum',
    prepare: three,
    steps: [
      ...['a', 'b', 'c', 'd'].map((name) =>
        call('blockdev-add', { driver: 'raw', 'node-name': `node-${name}`, file: file(`${name}.raw`) }),
      ),
      quorum('q', ['a', 'b'], { 'vote-threshold': 3 }),
      quorum('q', ['a', 'b'], { 'vote-threshold': 0 }),
      quorum('q', ['a'], { 'vote-threshold': 1 }),
      quorum('q', ['a', 'zz']),
      quorum('q', ['a', 'b', 'c'], { blkverify: true }),
      quorum('q', ['a', 'b', 'c'], { 'rewrite-corrupted': true, 'read-pattern': 'fifo' }),
      quorum('q', ['a', 'b', 'c']),
      serve,
      offer('q', { writable: false }),
      guest('q', 'read 0 4k'),
      { awaits: 'QUORUM_REPORT_BAD', data: { 'node-name': 'node-c' } },
      quorum('f', ['a', 'c', 'd']),
      offer('f', { writable: false }),
      guest('f', 'read 512 1k'),
      { awaits: 'QUORUM_FAILURE', data: { reference: 'f' } },
      call('query-named-block-nodes', { flat: true }),
      call('x-debug-query-block-graph'),
    ],
  },
  {
    name: 'quorum-errors',
    prepare: three,
    steps: [
      ...['a', 'b'].map((name) =>
        call('blockdev-add', { driver: 'raw', 'node-name': `node-${name}`, file: file(`${name}.raw`) }),
      ),
      failing('c', 'read'),
      failing('d', 'write'),
      quorum('r', ['a', 'b', 'c']),
      serve,
      offer('r', { writable: false }),
      guest('r', 'read 4k 4k'),
      { awaits: 'QUORUM_REPORT_BAD', data: { 'node-name': 'node-c' } },
      call('block-export-del', { id: 'r', mode: 'hard' }),
      { awaits: 'BLOCK_EXPORT_DELETED', data: { id: 'r' } },
      call('blockdev-del', { 'node-name': 'r' }),
      quorum('w', ['a', 'b', 'd']),
      offer('w'),
      guest('w', 'write 8k 4k'),
      { awaits: 'QUORUM_REPORT_BAD', data: { 'node-name': 'node-d' } },
      call('x-blockdev-change', { parent: 'w', child: 'children.2' }),
      call('x-blockdev-change', { parent: 'w', child: 'children.1' }),
    ],
  },
]
