import { execFileSync, spawnSync } from 'node:child_process'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { processContext } from '../../../src/tools/main-process.js'
import { runUmbrella } from '../../../src/tools/umbrella.js'
import { seeded } from '../../formats/format-under-test.js'
import { ours } from '../io/qemu-io.js'

/** Disks changed by mtools and written to `fat:rw:`: the folder becomes what mtools says is on the disk. */

let scratch = ''
let root = ''

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'blockgraph-vvfat-rw-'))
  root = join(scratch, 'root')
  mkdirSync(join(root, 'sub'), { recursive: true })
  writeFileSync(join(root, 'a.txt'), 'one')
  writeFileSync(join(root, 'A long name.bin'), Buffer.alloc(50_000, 3))
  writeFileSync(join(root, 'sub', 'inner'), Buffer.alloc(9000, 4))
})

afterEach(() => {
  rmSync(scratch, { recursive: true, force: true })
})

async function convert(...argv: string[]): Promise<{ code: number; stderr: string }> {
  let stderr = ''
  const context = {
    ...processContext('blockgraph', new AbortController().signal),
    stderr: (text: string) => {
      stderr += text
    },
  }
  const code = await runUmbrella(['convert', '-f', 'raw', '-O', 'raw', ...argv], context)
  return { code, stderr }
}

/** Every file with its contents, every folder with undefined. */
function tree(folder: string, prefix = ''): Map<string, string | undefined> {
  const found = new Map<string, string | undefined>()
  for (const name of readdirSync(folder).sort()) {
    const path = join(folder, name)
    if (statSync(path).isDirectory()) {
      found.set(prefix + name, undefined)
      for (const [inner, contents] of tree(path, `${prefix}${name}/`)) {
        found.set(inner, contents)
      }
    } else {
      found.set(prefix + name, readFileSync(path, 'latin1'))
    }
  }
  return found
}

const disk = (): string => join(scratch, 'disk.raw')

describe.each([
  ['', 32256],
  ['12:', 32256],
  ['floppy:', 0],
])('fat:rw:%s', (kind, start) => {
  const mtool = (tool: string, ...argv: string[]): string =>
    execFileSync(tool, ['-i', `${disk()}@@${start}`, ...argv], { input: '', encoding: 'utf8' })
  const source = (name: string, contents: Buffer): string => {
    writeFileSync(join(scratch, name), contents)
    return join(scratch, name)
  }
  const writeBack = (): ReturnType<typeof convert> => convert('-n', disk(), `fat:rw:${kind}${root}`)

  beforeEach(async () => {
    expect((await convert(`fat:${kind}${root}`, disk())).code).toBe(0)
  })

  test('an unchanged disk leaves every name and content', async () => {
    const before = tree(root)
    expect(await writeBack()).toMatchObject({ code: 0 })
    expect(tree(root)).toEqual(before)
    expect(before.size).toBe(4)
  })

  test('new, changed, grown, shortened, renamed and removed files and folders', async () => {
    const long = Buffer.alloc(30_001, 9)
    mtool('mcopy', '-o', source('new', Buffer.from('two, longer')), '::a.txt')
    mtool('mcopy', source('other', long), '::A new long name.data')
    mtool('mmd', '::made')
    mtool('mcopy', source('deep', Buffer.from('deep')), '::made/deep.txt')
    mtool('mcopy', '-o', source('short', Buffer.alloc(10, 1)), '::sub/inner')
    mtool('mren', '::A long name.bin', '::Another long name.bin')
    expect(await writeBack()).toMatchObject({ code: 0 })
    expect(tree(root)).toEqual(
      new Map<string, string | undefined>([
        ['A new long name.data', long.toString('latin1')],
        ['Another long name.bin', '\x03'.repeat(50_000)],
        ['a.txt', 'two, longer'],
        ['made', undefined],
        ['made/deep.txt', 'deep'],
        ['sub', undefined],
        ['sub/inner', '\x01'.repeat(10)],
      ]),
    )
    expect((await convert(`fat:${kind}${root}`, disk())).code).toBe(0)
    mtool('mdel', '::made/deep.txt')
    mtool('mrd', '::made')
    mtool('mdeltree', '::sub')
    mtool('mdel', '::a.txt')
    expect(await writeBack()).toMatchObject({ code: 0 })
    expect([...tree(root).keys()]).toEqual(['A new long name.data', 'Another long name.bin'])
  })

  test('whatever a guest does: mtools finds in the folder what it has made on the disk, and fsck nothing wrong', async () => {
    const next = seeded(kind.length + 5)
    const below = (count: number): number => Math.floor(next() * count)
    const names = ['a.txt', 'B', 'a rather long name.bin', 'sub', 'deep']
    /** A command that the state of the disk does not allow changes nothing. */
    const attempt = (tool: string, ...argv: string[]): void => {
      spawnSync(tool, ['-i', `${disk()}@@${start}`, ...argv], { input: '' })
    }
    const name = (): string => names[below(names.length)] ?? ''
    const place = (): string => `::${next() < 0.5 ? '' : `${next() < 0.5 ? 'sub' : 'deep'}/`}${name()}`
    for (let round = 0; round < 4; round++) {
      for (let step = 0; step < 8; step++) {
        const action = below(6)
        if (action < 2) {
          attempt('mcopy', '-o', source('new', Buffer.alloc(below(40_000), round * 8 + step)), place())
        } else if (action === 2) {
          attempt('mmd', place())
        } else if (action === 3) {
          attempt('mren', place(), place())
        } else if (action === 4) {
          attempt('mdel', place())
        } else {
          attempt('mdeltree', place())
        }
      }
      // The disk always holds something.
      mtool('mcopy', '-o', source('new', Buffer.from(`round ${round}`)), '::round')
      expect(await writeBack()).toMatchObject({ code: 0 })
      const copied = (): Map<string, string | undefined> => {
        const copy = mkdtempSync(join(scratch, 'copy-'))
        mtool('mcopy', '-s', '-n', '::*', copy)
        return tree(copy)
      }
      const onDisk = copied()
      expect(tree(root)).toEqual(onDisk)
      expect((await convert(`fat:${kind}${root}`, disk())).code).toBe(0)
      expect(copied()).toEqual(onDisk)
      execFileSync('dd', [
        `if=${disk()}`,
        `of=${disk()}.part`,
        'bs=512',
        `skip=${start / 512}`,
        'conv=sparse',
        'status=none',
      ])
      const fsck = spawnSync('fsck.vfat', ['-n', `${disk()}.part`], {
        encoding: 'utf8',
        env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
      })
      expect(fsck.status, fsck.stdout).toBe(0)
    }
  }, 120_000)

  test.each([
    ['a name that leaves the folder', 'A       TXT', '..      /  ', 'cannot be that of a file'],
    ['a name with a slash', 'SUB        ', 'S/B        ', 'cannot be that of a file'],
    ['a name with a control letter', 'SUB        ', 'S\x01B        ', 'has a letter that names cannot have'],
  ])('%s writes nothing', async (_, from, to, complaint) => {
    const bytes = readFileSync(disk())
    const at = bytes.indexOf(from, start, 'latin1')
    expect(at).toBeGreaterThan(0)
    bytes.write(to, at, 'latin1')
    writeFileSync(disk(), bytes)
    const before = tree(root)
    const { code, stderr } = await writeBack()
    expect(code).toBe(1)
    expect(stderr).toContain(complaint)
    expect(tree(root)).toEqual(before)
  })

  test('a file with clusters of another writes nothing and is named', async () => {
    const bytes = readFileSync(disk())
    const at = bytes.indexOf('INNER      ', start, 'latin1')
    const other = bytes.indexOf('A       TXT', start, 'latin1')
    bytes.copy(bytes, at + 26, other + 26, other + 28)
    writeFileSync(disk(), bytes)
    const before = tree(root)
    const { code, stderr } = await writeBack()
    expect(code).toBe(1)
    expect(stderr).toMatch(/'sub\/inner': cluster \d+ is used twice/)
    expect(tree(root)).toEqual(before)
  })

  test('what is behind a link is left alone', async () => {
    mkdirSync(join(scratch, 'outside'))
    writeFileSync(join(scratch, 'outside', 'kept'), 'kept')
    symlinkSync('../outside', join(root, 'link'))
    expect((await convert(`fat:${kind}${root}`, disk())).code).toBe(0)
    mtool('mcopy', '-o', source('evil', Buffer.from('evil')), '::link/kept')
    const { code, stderr } = await writeBack()
    expect(code).toBe(1)
    expect(stderr).toContain("'link/kept' is behind a link")
    expect(readFileSync(join(scratch, 'outside', 'kept'), 'utf8')).toBe('kept')
  })
})

test('writes are seen, and what no file has changes nothing', async () => {
  const before = tree(root)
  const commands = ['-c', 'write -P 7 20M 64k', '-c', 'read -P 7 20M 64k', '-c', 'read -P 0 21M 64k']
  const { code, stdout } = await ours([...commands, '-f', 'raw', 'fat:rw:root'], scratch)
  expect({ code, failed: stdout.includes('failed') }).toEqual({ code: 0, failed: false })
  expect(tree(root)).toEqual(before)
})
