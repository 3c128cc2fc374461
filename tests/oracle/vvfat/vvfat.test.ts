import { execFileSync, spawnSync } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { processContext } from '../../../src/tools/main-process.js'
import { runUmbrella } from '../../../src/tools/umbrella.js'
import { ours, theirs } from '../io/qemu-io.js'

/** Folders as disks: byte for byte those of qemu-img, and sound for mtools and fsck. */

let folder = ''

/** Names that become short ones in every way. */
const names = [
  'a.txt',
  'README',
  'Long File Name.text',
  'longfilename1.txt',
  'longfilename2.txt',
  'longfilename3.txt',
  '.hidden',
  'two.dots.tar.gz',
  'thirteenchars',
  'fourteenchars1',
  'UPPER.TXT',
  'sp ace',
  'ünïcode.txt',
  'plus+sign',
  'trailing.',
  'x.abcd',
  'with_under-score~1',
  'twelve.chars',
  '🙂.txt',
]

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-vvfat-'))
  const whole = join(folder, 'whole')
  mkdirSync(join(whole, 'sub', 'deep er'), { recursive: true })
  mkdirSync(join(whole, 'many'))
  // Whole clusters: what QEMU leaves behind the end of a file is left over from others.
  for (const [i, name] of names.entries()) {
    writeFileSync(join(whole, name), Buffer.alloc(8192 * (i % 4), i + 1))
    // Reading does not change the time of access again on the same day.
    utimesSync(join(whole, name), Date.now() / 1000, 1_500_000_000 + i * 1001)
  }
  writeFileSync(join(whole, 'sub', 'deep er', 'bottom'), Buffer.alloc(16384, 99))
  for (let i = 0; i < 150; i++) {
    writeFileSync(join(whole, 'many', `file number ${i}`), i % 3 === 0 ? Buffer.alloc(8192, i) : '')
  }
  symlinkSync('../a.txt', join(whole, 'sub', 'link'))
  symlinkSync('nowhere', join(whole, 'dangling'))
  const odd = join(folder, 'odd')
  mkdirSync(join(odd, 'inside'), { recursive: true })
  writeFileSync(join(odd, 'hello.txt'), 'hello\n')
  writeFileSync(join(odd, 'inside', 'a somewhat longer name.bin'), Buffer.alloc(20_001, 7))
  mkdirSync(join(folder, 'empty'))
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

async function convert(name: string, out: string): Promise<void> {
  const context = {
    ...processContext('blockgraph', new AbortController().signal),
    stderr: () => undefined,
  }
  expect(await runUmbrella(['convert', '-f', 'raw', '-O', 'raw', name, join(folder, out)], context)).toBe(0)
}

describe.each(['', '12:', '16:', '32:', 'floppy:', '12:floppy:', '16:floppy:', '32:floppy:'])(
  'fat:%s',
  (kind) => {
    // A floppy of 1.44 MB has no room for the rest.
    test.each(kind === '12:floppy:' ? ['empty'] : ['whole', 'empty'])(
      '%s is the same disk as with QEMU',
      async (name) => {
        const path = `fat:${kind}${join(folder, name)}`
        await convert(path, 'ours.raw')
        spawnSync('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', path, 'theirs.raw'], { cwd: folder })
        const { status, stdout } = spawnSync('cmp', ['ours.raw', 'theirs.raw'], {
          cwd: folder,
          encoding: 'utf8',
        })
        expect({ status, stdout }).toEqual({ status: 0, stdout: '' })
      },
    )
  },
)

test('mtools and fsck find the files', async () => {
  await convert(`fat:${join(folder, 'odd')}`, 'odd.raw')
  const partition = join(folder, 'odd.part')
  const cut = ['bs=32256', 'skip=1', 'conv=sparse', 'status=none']
  execFileSync('dd', [`if=${join(folder, 'odd.raw')}`, `of=${partition}`, ...cut])
  const fsck = spawnSync('fsck.vfat', ['-n', partition], {
    encoding: 'utf8',
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  })
  expect(fsck.error).toBeUndefined()
  expect(fsck.stdout).toMatch(/4 files/)
  expect(fsck.status, fsck.stdout).toBe(0)
  const read = (name: string): Buffer =>
    execFileSync('mtype', ['-i', partition, `::${name}`], { maxBuffer: 1 << 20 })
  expect(read('hello.txt').toString()).toBe('hello\n')
  expect(read('inside/a somewhat longer name.bin').equals(Buffer.alloc(20_001, 7))).toBe(true)
})

test.each([
  [['-r', 'fat:nonexist']],
  [['fat:empty']],
  [['-r', 'fat:rw:empty']],
  [['-r', '--image-opts', 'driver=vvfat,fat-type=13,dir=empty']],
  [['-r', '--image-opts', 'driver=vvfat']],
  [['-r', '--image-opts', 'driver=vvfat,dir=empty,label=123456789012']],
  [['-r', '-c', 'read -v 0x7e00 512', '--image-opts', 'driver=vvfat,dir=empty,label=DATA']],
  [['-r', '-c', 'read -v 0 512', 'fat:floppy:empty']],
])('%j does the same', async (line) => {
  const argv = line.includes('-c') ? line : ['-c', 'quit', ...line]
  const expected = theirs(argv, folder)
  expect(await ours(argv, folder)).toEqual(expected)
})

describe('FAT32', () => {
  test('QEMU loses what is written to it, so that it is refused', async () => {
    const dir = join(folder, 'fat32')
    mkdirSync(dir)
    const hello = join(dir, 'hello.txt')
    writeFileSync(hello, Buffer.alloc(9000, 'a'))
    const place = async (kind: string): Promise<number> => {
      await convert(`fat:${kind}${dir}`, 'fat32.raw')
      const raw = openSync(join(folder, 'fat32.raw'), 'r')
      const start = Buffer.alloc(1 << 20)
      readSync(raw, start, 0, start.length, 0)
      closeSync(raw)
      return start.indexOf(Buffer.alloc(512, 'a'))
    }
    for (const [kind, isKept] of [
      ['', true],
      ['32:', false],
    ] as const) {
      const at = await place(kind)
      expect(at).toBeGreaterThan(0)
      const theirsSaid = theirs(
        ['-f', 'raw', '-c', `write -P 98 ${at} 512`, '-c', 'flush', `fat:rw:${kind}${dir}`],
        folder,
      )
      expect({ code: theirsSaid.code, failed: theirsSaid.stdout.includes('failed') }).toEqual({
        code: 0,
        failed: false,
      })
      // It says that it has written, but only with FAT16 the file has the bytes.
      expect(readFileSync(hello).subarray(0, 512).equals(Buffer.alloc(512, 'b'))).toBe(isKept)
      writeFileSync(hello, Buffer.alloc(9000, 'a'))
    }
    const before = readFileSync(hello)
    const { code, stderr } = await ours(['-c', 'write 0 512', '-f', 'raw', `fat:rw:32:${dir}`], folder)
    expect(code).toBe(1)
    expect(stderr).toContain(
      "Writing to a folder through vvfat ('rw') is not supported with FAT32, only with FAT12 and FAT16",
    )
    expect(readFileSync(hello).equals(before)).toBe(true)
  })

  test('no other system reads the layout', () => {
    const partition = join(folder, 'fat32.part')
    const cut = ['bs=32256', 'skip=1', 'conv=sparse', 'status=none']
    execFileSync(
      'qemu-img',
      ['convert', '-f', 'raw', '-O', 'raw', `fat:32:${join(folder, 'odd')}`, join(folder, 'fat32.raw')],
      { stdio: 'ignore' },
    )
    execFileSync('dd', [`if=${join(folder, 'fat32.raw')}`, `of=${partition}`, ...cut])
    const mdir = spawnSync('mdir', ['-i', partition, '::'], { encoding: 'utf8' })
    expect(mdir.status).toBe(1)
    expect(mdir.stderr).toContain('Error reading FAT')
  })
})
