import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run } from '../../../src/tools/img/run.js'
import { wordsOf } from '../text/cases.js'
import { memoryContext } from '../text/fixture.js'

/**
 * `commit` and `rebase` beside the oracle: what they print, how they exit, and every byte of every
 * file afterwards. Where the layout of an image may differ, its contents and its soundness count.
 */
const root = mkdtempSync(join(tmpdir(), 'blockgraph-chain-'))
const template = join(root, 'template')
const start = process.cwd()

const img = (...args: string[]) => execFileSync('qemu-img', args, { cwd: template, stdio: 'pipe' })
const write = (name: string, format: string, ...commands: string[]) =>
  execFileSync('qemu-io', ['-f', format, ...commands.flatMap((command) => ['-c', command]), name], {
    cwd: template,
    stdio: 'pipe',
  })
const overlay = (name: string, backing: string, format: string, ...more: string[]) =>
  img(
    'create',
    '-q',
    '-f',
    'qcow2',
    '-b',
    backing,
    '-F',
    format,
    ...more.slice(0, -1),
    name,
    ...more.slice(-1),
  )

beforeAll(() => {
  mkdirSync(join(template, 'folder'), { recursive: true })
  img('create', '-q', '-f', 'raw', 'base.raw', '1M')
  write('base.raw', 'raw', 'write -P 1 0 256k', 'write -P 2 700k 10k')
  img('create', '-q', '-f', 'raw', 'other.raw', '1M')
  write('other.raw', 'raw', 'write -P 1 0 100k', 'write -P 9 300k 50k', 'write -P 2 700k 10k')
  img('create', '-q', '-f', 'raw', 'short.raw', '200k')
  write('short.raw', 'raw', 'write -P 1 0 150k')
  img('create', '-q', '-f', 'raw', 'long.raw', '3M')
  write('long.raw', 'raw', 'write -P 1 0 100k', 'write -P 8 2M 512k')
  overlay('mid.qcow2', 'base.raw', 'raw', '1M')
  write('mid.qcow2', 'qcow2', 'write -P 3 64k 64k', 'write -P 4 900k 20k')
  overlay('top.qcow2', 'mid.qcow2', 'qcow2', '2M')
  write('top.qcow2', 'qcow2', 'write -P 5 128k 64k', 'write -z 192k 64k', 'write -P 6 1500k 64k')
  const written = ['write -P 5 100k 30k', 'write -z 512k 64k', 'write -P 6 740k 5k'] as const
  img('create', '-q', '-f', 'qcow2', 'alone.qcow2', '1M')
  write('alone.qcow2', 'qcow2', ...written)
  img('create', '-q', '-u', '-f', 'qcow2', '-b', 'gone.raw', '-F', 'raw', 'orphan.qcow2', '1M')
  overlay('snap.qcow2', 'base.raw', 'raw', '1M')
  write('snap.qcow2', 'qcow2', ...written)
  img('snapshot', '-c', 'first', 'snap.qcow2')
  write('snap.qcow2', 'qcow2', 'write -P 7 110k 100k')
  overlay('v2.qcow2', 'base.raw', 'raw', '-o', 'compat=0.10', '1M')
  write('v2.qcow2', 'qcow2', 'write -P 5 100k 30k', 'write -P 6 740k 5k')
  overlay('small-clusters.qcow2', 'base.raw', 'raw', '-o', 'cluster_size=512', '1M')
  write('small-clusters.qcow2', 'qcow2', ...written)
  overlay('big-clusters.qcow2', 'base.raw', 'raw', '-o', 'cluster_size=2M', '4M')
  write('big-clusters.qcow2', 'qcow2', 'write -P 5 100k 30k')
  overlay('over-qcow2.qcow2', 'alone.qcow2', 'qcow2', '1M')
  write('over-qcow2.qcow2', 'qcow2', 'write -P 7 90k 100k', 'write -P 8 600k 10k')
  overlay('shorter.qcow2', 'base.raw', 'raw', '300k')
  write('shorter.qcow2', 'qcow2', 'write -P 7 90k 10k')
  overlay('grown.qcow2', 'base.raw', 'raw', '2500k')
  write('grown.qcow2', 'qcow2', 'write -P 7 1800k 10k')
  overlay('packed.qcow2', 'base.raw', 'raw', '1M')
  write('packed.qcow2', 'qcow2', 'write -c -P 7 128k 64k', 'write -c -P 8 256k 64k', 'write -P 9 512k 3k')
  overlay('bitmapped.qcow2', 'base.raw', 'raw', '1M')
  write('bitmapped.qcow2', 'qcow2', 'write -P 7 128k 64k')
  overlay('resized.qcow2', 'base.raw', 'raw', '-o', 'cluster_size=4k', '1M')
  write('resized.qcow2', 'qcow2', 'write -P 7 128k 64k')
  img('resize', '-q', 'resized.qcow2', '600M')
  img('resize', '-q', '--shrink', 'resized.qcow2', '2M')
  overlay('refcount1.qcow2', 'base.raw', 'raw', '-o', 'refcount_bits=1,cluster_size=1k', '1M')
  write('refcount1.qcow2', 'qcow2', ...written)
  overlay('nothing.qcow2', 'base.raw', 'raw', '1M')
  copyFileSync(join(template, 'base.raw'), join(template, 'folder/base.raw'))
  img('create', '-q', '-u', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'folder/inner.qcow2', '1M')
})

afterAll(() => {
  process.chdir(start)
  rmSync(root, { recursive: true, force: true })
})

function fresh(name: string): string {
  const path = join(root, name)
  rmSync(path, { recursive: true, force: true })
  execFileSync('cp', ['-a', '--sparse=always', template, path])
  return path
}

function digests(folder: string): Record<string, string> {
  const found: Record<string, string> = {}
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()) {
    if (name !== 'folder') {
      found[name] = createHash('sha256')
        .update(readFileSync(join(folder, name)))
        .digest('hex')
    }
  }
  return found
}

/** What a guest sees of an image, what its file says of it, and whether it is sound. */
function inspect(folder: string, name: string): unknown {
  const qemu = (...args: string[]) => spawnSync('qemu-img', args, { cwd: folder, encoding: 'utf8' })
  const check = qemu('check', '-f', 'qcow2', name)
  const out = join(root, 'contents')
  const converted = qemu('convert', '-f', 'qcow2', '-O', 'raw', name, out)
  const contents = converted.status === 0 ? createHash('sha256').update(readFileSync(out)).digest('hex') : ''
  const map = JSON.parse(qemu('map', '-f', 'qcow2', '--output=json', name).stdout || '[]') as {
    start: number
    length: number
    depth: number
    present: boolean
    zero: boolean
    data: boolean
  }[]
  // Where in the file extents stand is left open, and so is whether neighbours stand side by side.
  const extents: { kind: string; end: number }[] = []
  for (const { start: at, length, depth, present, zero, data } of map) {
    const kind = JSON.stringify({ depth, present, zero, data })
    const last = extents.at(-1)
    if (last?.kind === kind) {
      last.end = at + length
    } else {
      extents.push({ kind, end: at + length })
    }
  }
  return {
    check: check.status,
    contents,
    stderr: converted.stderr,
    extents,
    backing: /^backing file.*$/gm.exec(qemu('info', '-f', 'qcow2', name).stdout)?.[0],
  }
}

let identical = 0
let alike = 0

for (const subject of ['commit', 'rebase']) {
  const lines = readFileSync(new URL(`./cases/${subject}.txt`, import.meta.url), 'utf8')
    .trimEnd()
    .split('\n')
  describe(subject, () => {
    test.each(lines)('qemu-img %s', async (line) => {
      const args = wordsOf(line)
      const theirFolder = fresh('theirs')
      const theirs = spawnSync('qemu-img', args, { cwd: theirFolder, encoding: 'utf8' })
      expect(theirs.error).toBeUndefined()
      const ourFolder = fresh('ours')
      process.chdir(ourFolder)
      const output = memoryContext()
      const status = await run(args, output.context)
      process.chdir(start)
      const named = (text: string) => text.replaceAll(ourFolder, 'DIR').replaceAll(theirFolder, 'DIR')
      expect({ status, stdout: output.stdout, stderr: named(output.stderr) }).toEqual({
        status: theirs.status,
        stdout: theirs.stdout,
        stderr: named(theirs.stderr),
      })
      const before = digests(template)
      const [ours, expected] = [digests(ourFolder), digests(theirFolder)]
      expect(Object.keys(ours)).toEqual(Object.keys(expected))
      for (const [name, digest] of Object.entries(expected)) {
        if (ours[name] === digest) {
          identical += digest === before[name] ? 0 : 1
          continue
        }
        // A change that is refused is refused before anything is copied.
        if (status !== 0 && ours[name] === before[name]) {
          continue
        }
        expect(name, `${name} differs`).toMatch(/\.qcow2$/)
        alike++
        expect(inspect(ourFolder, name)).toEqual(inspect(theirFolder, name))
      }
    })
  })
}

test('most changed files are the same to the byte', () => {
  expect(identical).toBeGreaterThan(alike)
})
