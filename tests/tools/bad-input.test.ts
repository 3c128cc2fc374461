import { execFileSync, spawnSync } from 'node:child_process'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

/** What users do wrong, and what disks do to them: one clear line, a failing exit code, nothing lost. */
const tool = fileURLToPath(new URL('../../bin/blockgraph-img', import.meta.url))
let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-bad-'))
})

afterEach(() => {
  rmSync(folder, { recursive: true, force: true })
})

function qemu(...args: string[]): void {
  execFileSync('qemu-img', args, { cwd: folder, stdio: 'pipe' })
}

interface Result {
  readonly status: number | null
  readonly stderr: string
  readonly stdout: string
  readonly seconds: number
}

function run(...args: string[]): Result {
  const start = performance.now()
  const { status, stderr, stdout } = spawnSync(tool, args, { cwd: folder, encoding: 'utf8' })
  return { status, stderr, stdout, seconds: (performance.now() - start) / 1000 }
}

/** Fails as a user would want it: quickly, in one message, without a stack trace. */
function refuses(text: string | RegExp, ...args: string[]): void {
  const { status, stderr, seconds } = run(...args)
  // On a busy machine a process may have to wait: the best of a few runs tells how long it takes.
  const least = (left: number, best: number): number =>
    best < 1 || left === 0 ? best : least(left - 1, Math.min(best, run(...args).seconds))
  expect(stderr).toMatch(text)
  expect(stderr).not.toContain('    at ')
  expect(status).toBe(1)
  expect(least(4, seconds)).toBeLessThan(1)
}

describe('images that cannot be opened', () => {
  test('a missing backing file, a chain that contains itself, an unknown format', () => {
    qemu('create', '-q', '-f', 'raw', 'base.raw', '1M')
    qemu('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'a.qcow2')
    rmSync(join(folder, 'base.raw'))
    refuses(
      /Could not open backing file: Could not open 'base.raw': No such file or directory/,
      'map',
      'a.qcow2',
    )
    qemu('create', '-q', '-u', '-f', 'qcow2', '-b', 'y.qcow2', '-F', 'qcow2', 'x.qcow2', '1M')
    qemu('create', '-q', '-u', '-f', 'qcow2', '-b', 'x.qcow2', '-F', 'qcow2', 'y.qcow2', '1M')
    refuses(/creates an infinite loop/, 'map', 'x.qcow2')
    refuses(/Unknown driver 'nope'/, 'info', '-f', 'nope', 'a.qcow2')
  })

  test('files cut off, and files that are something else', () => {
    qemu('create', '-q', '-f', 'qcow2', 'a.qcow2', '1M')
    truncateSync(join(folder, 'a.qcow2'), 60)
    refuses(/^blockgraph-img: .*a\.qcow2/, 'map', '-f', 'qcow2', 'a.qcow2')
    writeFileSync(join(folder, 'text'), 'hello')
    refuses(/Image is not in qcow2 format/, 'info', '-f', 'qcow2', 'text')
    mkdirSync(join(folder, 'dir'))
    refuses(/'file' driver requires 'dir' to be a regular file/, 'info', 'dir')
  })
})

describe('conversions that fail', () => {
  test('leave no target, no temporary file and an untouched source', () => {
    qemu('create', '-q', '-f', 'qcow2', 'a.qcow2', '1M')
    execFileSync('qemu-io', ['-c', 'write -c -P 5 0 64k', 'a.qcow2'], { cwd: folder, stdio: 'pipe' })
    // Break the compressed data itself.
    const bytes = readFileSync(join(folder, 'a.qcow2'))
    bytes.fill(0xff, 0x50000)
    writeFileSync(join(folder, 'a.qcow2'), bytes)
    const before = readFileSync(join(folder, 'a.qcow2'))
    refuses(/error while reading/, 'convert', '-O', 'raw', 'a.qcow2', 'out.raw')
    expect(readdirSync(folder)).toEqual(['a.qcow2'])
    expect(readFileSync(join(folder, 'a.qcow2')).equals(before)).toBe(true)
  })

  test('on a full disk', () => {
    const disk = join(folder, 'disk')
    mkdirSync(disk)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk])
    try {
      writeFileSync(join(folder, 'source.raw'), Buffer.alloc(8 << 20, 7))
      refuses(
        /No space left on device/,
        'convert',
        '-f',
        'raw',
        '-O',
        'qcow2',
        'source.raw',
        'disk/out.qcow2',
      )
      refuses(/No space left on device/, 'convert', '-f', 'raw', '-O', 'raw', 'source.raw', 'disk/out.raw')
      expect(readdirSync(disk)).toEqual([])
    } finally {
      execFileSync('umount', [disk])
    }
  })

  test('into a folder that does not exist, and onto an image in use', () => {
    writeFileSync(join(folder, 'source.raw'), Buffer.alloc(1 << 20, 7))
    refuses(
      /No such file or directory/,
      'convert',
      '-f',
      'raw',
      '-O',
      'qcow2',
      'source.raw',
      'gone/out.qcow2',
    )
    refuses(/Failed to get "write" lock/, 'convert', '-f', 'raw', '-O', 'raw', 'source.raw', 'source.raw')
    expect(readFileSync(join(folder, 'source.raw'))[0]).toBe(7)
  })
})
