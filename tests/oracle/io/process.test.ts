import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'

/** qemu-io as a process beside ours: its own options, standard input, signals, breakpoints. */
const tool = fileURLToPath(new URL('../../../bin/blockgraph-io', import.meta.url))
const root = mkdtempSync(join(tmpdir(), 'blockgraph-io-'))
const template = join(root, 'template')
let count = 0

beforeAll(() => {
  mkdirSync(template)
  const qemu = (...args: string[]) => execFileSync('qemu-img', args, { cwd: template, stdio: 'pipe' })
  qemu('create', '-q', '-f', 'raw', 'r.raw', '1M')
  qemu('create', '-q', '-f', 'qcow2', 'q.qcow2', '1M')
  execFileSync('qemu-io', ['-c', 'write -P 7 0 128k', 'q.qcow2'], { cwd: template, stdio: 'pipe' })
  writeFileSync(join(template, 'rules'), '[inject-error]\nevent = "read_aio"\nerrno = "5"\nonce = "on"\n')
  symlinkSync(tool, join(root, 'qemu-io'))
})

afterAll(() => {
  rmSync(root, { recursive: true, force: true })
})

interface Outcome {
  readonly stdout: string
  readonly stderr: string
  readonly status: number | null
  readonly signal: string | null
  readonly image: string
}

function outcome(program: string, args: readonly string[], input: string): Outcome {
  const folder = join(root, `run${count++}`)
  cpSync(template, folder, { recursive: true })
  const { stdout, stderr, status, signal } = spawnSync(program, args, {
    cwd: folder,
    encoding: 'utf8',
    input,
  })
  const contents = ['r.raw', 'q.qcow2'].map((name) =>
    createHash('sha256')
      .update(readFileSync(join(folder, name)))
      .digest('hex'),
  )
  rmSync(folder, { recursive: true, force: true })
  const timeless = (text: string) =>
    text
      .replace(/\d+(\.\d+)? (sec|s)\b/g, 'T')
      .replace(/\(\S+ \S+ and \S+ ops\/sec\)/g, '(RATE)')
      .replace(/[\d.]+ [KMGT]?i?B\/sec and [\d.]+ ops\/sec/g, 'RATE')
      .replace(/[\d.]+ (bytes|[KMGT]iB)\/sec/g, 'RATE')
      .replace(/; T; .*/g, '; TIME')
      .replace(/; \d\d?\.\d+ .*/g, '; TIME')
      .replace(/; \d\d:\d\d:\d\d.*/g, '; TIME')
      .replace(/\d+ ops; .*/g, 'OPS')
  // The list of options after a wrong call is in our own words.
  const listed = stdout.replace(/^(Usage: .*\n)[\s\S]*/, '$1')
  return { stdout: timeless(listed), stderr, status, signal, image: contents.join('\n') }
}

const cases: readonly (readonly [args: readonly string[], input?: string])[] = [
  [['-c', 'read 0 64k', 'r.raw']],
  [['-f', 'raw', '-c', 'write -P 3 4k 4k', 'r.raw']],
  [['-r', '-f', 'qcow2', '-c', 'read -P 7 0 64k', '-c', 'write 0 4k', 'q.qcow2']],
  [['-s', '-f', 'qcow2', '-c', 'write -P 9 0 4k', '-c', 'read -P 9 0 4k', 'q.qcow2']],
  [['-n', '-f', 'raw', '-c', 'read 0 4k', 'r.raw']],
  [['-n', '-t', 'none', '-f', 'raw', '-c', 'length', 'r.raw']],
  [['-t', 'writethrough', '-f', 'raw', '-c', 'write 0 512', 'r.raw']],
  [['-t', 'nonsense', '-f', 'raw', 'r.raw']],
  [['-d', 'unmap', '-f', 'qcow2', '-c', 'discard 0 64k', 'q.qcow2']],
  [['-d', 'nonsense', '-f', 'raw', 'r.raw']],
  [['-i', 'threads', '-f', 'raw', '-c', 'length', 'r.raw']],
  [['-i', 'nonsense', '-f', 'raw', 'r.raw']],
  [['-U', '-r', '-f', 'qcow2', '-c', 'length', 'q.qcow2']],
  [['-C', '-f', 'qcow2', '-c', 'read 0 4k', 'q.qcow2']],
  [['--image-opts', '-c', 'read -P 7 0 4k', 'driver=qcow2,file.filename=q.qcow2']],
  [['--image-opts', '-f', 'raw', 'driver=raw,file.filename=r.raw']],
  [['--object', 'secret,id=s0,data=abc', '-f', 'raw', '-c', 'length', 'r.raw']],
  [['--object', 'secret,id=s0', '-f', 'raw', '-c', 'length', 'r.raw']],
  [['-f', 'raw', 'missing']],
  [['-f', 'raw', 'r.raw', 'q.qcow2']],
  [['--nonsense']],
  [['-c', 'length']],
  [['-c', 'open -o driver=qcow2 q.qcow2', '-c', 'length', '-c', 'close', '-c', 'length']],
  [['-c', 'sleep 1', '-c', 'quit', '-c', 'length']],
  [['-c', 'nonsense', '-c', 'read', '-f', 'raw', 'r.raw']],
  [['-f', 'raw', '-c', 'sigraise 15', '-c', 'length', 'r.raw']],
  [['-f', 'raw', '-c', 'abort', 'r.raw']],
  [
    [
      '-c',
      'break read_aio A',
      '-c',
      'aio_read 0 4k',
      '-c',
      'wait_break A',
      '-c',
      'resume A',
      '-c',
      'aio_flush',
      'blkdebug::q.qcow2',
    ],
  ],
  [['-c', 'read 0 4k', '-c', 'read 0 4k', 'blkdebug:rules:q.qcow2']],
  [['-f', 'raw', 'r.raw'], 'write -P 5 0 1k\nread -P 5 0 1k\nread -P 6 0 1k\nlength\nquit\nlength\n'],
  [['-f', 'qcow2', 'q.qcow2'], 'map\nalloc 0 1M\n\n  read   0   512  \nnonsense\n'],
]

test.each(cases.map(([args, input = '']) => ({ args, input })))('qemu-io $args', ({ args, input }) => {
  expect(outcome(join(root, 'qemu-io'), args, input)).toEqual(outcome('qemu-io', args, input))
})

test('twenty thousand commands on standard input are answered in order', () => {
  const commands = Array.from({ length: 20_000 }, (_, i) => `length${i % 2 === 0 ? '' : ' '}`).join('\n')
  const { stdout, status } = spawnSync(tool, ['-f', 'raw', join(template, 'r.raw')], {
    encoding: 'utf8',
    input: `${commands}\n`,
    maxBuffer: 1 << 26,
  })
  expect(status).toBe(0)
  expect(stdout.match(/1 MiB/g)?.length).toBe(20_000)
})
