import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { Folder, firstDifference, io, ours, theirs, withoutDates } from './tools.js'

/** The same changes in place on the same image, by the oracle and by us: the files are equal afterwards. */
const folder = new Folder()
afterAll(() => folder.remove())

type Step = readonly string[]

const zeroes: Step = [
  'io',
  'write -P 1 0 128k',
  'write -z 32k 64k',
  'write -z -u 512k 64k',
  'write -P 3 700k 9k',
]
// Without zeroes that keep their clusters: with snapshots we use new ones, as others may hold data there.
const plainZeroes: Step = ['io', 'write -P 1 0 128k', 'write -z -u 512k 64k', 'write -P 3 700k 9k']
const amend = (options: string): Step => ['amend', '-o', options]

const sequences: readonly { name: string; create: string; backed?: boolean; steps: readonly Step[] }[] = [
  { name: 'down', create: 'cluster_size=64k', steps: [zeroes, amend('compat=0.10')] },
  { name: 'down, small clusters', create: 'cluster_size=512', steps: [zeroes, amend('compat=0.10')] },
  {
    name: 'down, with a backing file',
    create: 'cluster_size=4k',
    backed: true,
    steps: [zeroes, amend('compat=0.10')],
  },
  {
    name: 'down and up',
    create: 'cluster_size=4k',
    steps: [zeroes, amend('compat=0.10'), amend('compat=1.1')],
  },
  {
    name: 'up',
    create: 'compat=0.10',
    steps: [['io', 'write 0 64k'], amend('compat=1.1'), amend('compat=1.1')],
  },
  {
    name: 'up with a snapshot',
    create: 'compat=0.10',
    steps: [['io', 'write 0 64k'], ['snapshot', '-c', 'a'], amend('compat=1.1'), amend('compat=0.10')],
  },
  {
    name: 'down with snapshots',
    create: 'cluster_size=4k',
    steps: [
      plainZeroes,
      ['snapshot', '-c', 'a'],
      ['io', 'write -z 900k 8k', 'write -P 7 40k 4k'],
      amend('compat=0.10'),
    ],
  },
  {
    name: 'down with snapshots and a backing file',
    create: 'cluster_size=4k',
    backed: true,
    steps: [
      plainZeroes,
      ['snapshot', '-c', 'a'],
      ['io', 'write -z -u 900k 8k', 'write -P 7 40k 4k'],
      amend('compat=0.10'),
    ],
  },
  ...[1, 2, 4, 8, 32, 64].map((bits) => ({
    name: `${bits} bits`,
    create: 'cluster_size=4k',
    steps: [zeroes, amend(`refcount_bits=${bits}`), ['io', 'write -P 5 300k 50k'], amend('refcount_bits=16')],
  })),
  ...[1, 64].map((bits) => ({
    name: `${bits} bits, small clusters`,
    create: 'cluster_size=512',
    steps: [zeroes, amend(`refcount_bits=${bits}`), ['io', 'write -P 5 300k 50k'], amend('refcount_bits=8')],
  })),
  { name: 'lazy', create: '', steps: [amend('lazy_refcounts=on'), zeroes, amend('lazy_refcounts=off')] },
  { name: 'size', create: 'cluster_size=1k', steps: [zeroes, amend('size=3M')] },
  {
    name: 'all at once',
    create: 'compat=0.10,cluster_size=1k',
    steps: [
      ['io', 'write 0 64k'],
      amend('compat=1.1,refcount_bits=1,lazy_refcounts=on,size=2M'),
      amend('compat=0.10,refcount_bits=16,lazy_refcounts=off,size=1M'),
    ],
  },
]

test.each(sequences)('amend: $name', async ({ name, create, backed, steps }) => {
  const a = folder.sub(`${name}-qemu`)
  const b = folder.sub(`${name}-ours`)
  const options = create === '' ? [] : ['-o', create]
  for (const cwd of [a, b]) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', 'base', '1M'], { cwd })
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 1M', 'base'], { cwd, stdio: 'pipe' })
  }
  const backing = backed === true ? ['-b', 'base', '-F', 'raw'] : []
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, ...backing, 'image', '1M'], { cwd: a })
  fs.copyFileSync(path.join(a, 'image'), path.join(b, 'image'))
  for (const [command = '', ...rest] of steps) {
    if (command === 'io') {
      for (const cwd of [a, b]) {
        io(cwd, 'image', ...rest)
      }
      continue
    }
    const args = [command, ...rest, 'image']
    const expected = theirs(a, ...args)
    expect(await ours(b, ...args)).toEqual(expected)
    if (expected.status !== 0) {
      // Both have refused; what was done before that is checked below.
      break
    }
    const [x, y] = [a, b].map((cwd) => withoutDates(fs.readFileSync(path.join(cwd, 'image'))))
    expect(firstDifference(x as Uint8Array, y as Uint8Array), args.join(' ')).toBeUndefined()
  }
  const check = theirs(a, 'check', 'image')
  expect(theirs(b, 'check', 'image')).toEqual(check)
  expect(check.status).toBe(0)
})

test('zeroes over what a snapshot holds do not reach the snapshot when the version goes down', async () => {
  const cwd = folder.sub('shared')
  const read = (snapshot: string | undefined) => {
    const which = snapshot === undefined ? [] : ['-l', snapshot]
    execFileSync('qemu-img', ['convert', ...which, '-O', 'raw', 'image', 'raw'], { cwd })
    return fs.readFileSync(path.join(cwd, 'raw'))
  }
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', 'image', '1M'], { cwd })
  io(cwd, 'image', 'write -P 1 0 128k')
  expect(theirs(cwd, 'snapshot', '-c', 'a', 'image').status).toBe(0)
  io(cwd, 'image', 'write -z 0 16k', 'write -z -u 32k 16k')
  const before = [read('a'), read(undefined)]
  expect(await ours(cwd, 'amend', '-o', 'compat=0.10', 'image')).toEqual({
    status: 0,
    stdout: '',
    stderr: '',
  })
  const after = [read('a'), read(undefined)]
  expect(after.every((bytes, i) => bytes.equals(before[i] as Buffer))).toBe(true)
  expect(theirs(cwd, 'check', 'image').status).toBe(0)
})
