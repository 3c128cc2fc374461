import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { Backend, createBlockLayer } from '../../../src/graph/index.js'
import type { OptionTree } from '../../../src/options/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'

let root = ''
const names = ['base.raw', 'top.qcow2', 'empty.qcow2']

function qemu(program: string, args: string[], cwd: string): string {
  return execFileSync(program, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'blockgraph-filters-'))
  qemu('qemu-img', ['create', '-f', 'raw', 'base.raw', '4M'], root)
  qemu('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 1M', '-c', 'write -P 2 3M 300k', 'base.raw'], root)
  qemu('qemu-img', ['create', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'top.qcow2'], root)
  qemu('qemu-io', ['-f', 'qcow2', '-c', 'write -P 3 512k 64k', 'top.qcow2'], root)
  qemu('qemu-img', ['create', '-f', 'qcow2', 'empty.qcow2', '4M'], root)
})

afterAll(() => {
  rmSync(root, { recursive: true, force: true })
})

function folder(name: string): string {
  const path = join(root, name)
  rmSync(path, { recursive: true, force: true })
  mkdirSync(path)
  for (const file of names) {
    copyFileSync(join(root, file), join(path, file))
  }
  return path
}

type Step = ['read' | 'write' | 'zero', number, number]

/** Does the same through the same node with QEMU and here; the folders of both. */
async function both(options: (path: string) => OptionTree, steps: Step[]): Promise<[string, string]> {
  const [theirs, ours] = [folder('theirs'), folder('ours')]
  const commands = steps.flatMap(([what, offset, bytes]) => [
    '-c',
    what === 'read'
      ? `read ${offset} ${bytes}`
      : `write ${what === 'zero' ? '-z' : '-P 9'} ${offset} ${bytes}`,
  ])
  qemu('qemu-io', [...commands, `json:${JSON.stringify(options(theirs))}`], theirs)
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const image = await Backend.open(layer, undefined, options(ours), { write: true })
  for (const [what, offset, bytes] of steps) {
    const buffer = new Uint8Array(bytes).fill(9)
    if (what === 'read') {
      await image.read(offset, bytes, buffer)
    } else {
      await (what === 'write' ? image.write(offset, bytes, buffer) : image.writeZeroes(offset, bytes))
    }
  }
  await image.close()
  await layer.closeAll()
  return [theirs, ours]
}

function map(path: string, image: string): { start: number; length: number; depth: number; data: boolean }[] {
  const text = qemu('qemu-img', ['map', '--output=json', image], path)
  return (JSON.parse(text) as Record<string, never>[]).map(
    ({ start, length, depth, data, zero }) => ({ start, length, depth, data, zero }) as never,
  )
}

function same([theirs, ours]: [string, string], image: string): void {
  expect(map(ours, image)).toEqual(map(theirs, image))
  expect(qemu('qemu-img', ['compare', join(theirs, image), join(ours, image)], root)).toContain('identical')
  expect(qemu('qemu-img', ['check', image], ours)).toContain('No errors')
}

const top = (path: string): OptionTree => ({
  driver: 'qcow2',
  file: { driver: 'file', filename: join(path, 'top.qcow2') },
  backing: {
    driver: 'raw',
    'node-name': 'bottom',
    file: { driver: 'file', filename: join(path, 'base.raw') },
  },
})

const reads: Step[] = [
  ['read', 0, 4096],
  ['read', 300_032, 400_384],
  ['read', 3 << 20, 65536],
  ['read', 2 << 20, 131072],
]

test('copy-on-read copies the same clusters', async () => {
  same(await both((path) => ({ driver: 'copy-on-read', file: top(path) }), reads), 'top.qcow2')
})

test('copy-on-read down to a node copies the same clusters', async () => {
  same(
    await both((path) => ({ driver: 'copy-on-read', bottom: 'bottom', file: top(path) }), reads),
    'top.qcow2',
  )
})

test('compress stores the same contents, compressed', async () => {
  const folders = await both(
    (path) => ({
      driver: 'compress',
      file: { driver: 'qcow2', file: { driver: 'file', filename: join(path, 'empty.qcow2') } },
    }),
    [
      ['write', 0, 131072],
      ['write', 200_192, 512],
      ['zero', 1 << 20, 65536],
      ['read', 0, 1 << 20],
    ],
  )
  same(folders, 'empty.qcow2')
  for (const path of folders) {
    expect(qemu('qemu-img', ['check', 'empty.qcow2'], path)).toMatch(
      /100\.00% compressed|compressed clusters/,
    )
  }
})

test('preallocate leaves the same file', async () => {
  const folders = await both(
    (path) => ({
      driver: 'qcow2',
      file: {
        driver: 'preallocate',
        'prealloc-size': 1 << 20,
        file: { driver: 'file', filename: join(path, 'empty.qcow2') },
      },
    }),
    [
      ['write', 0, 131072],
      ['write', 2 << 20, 512],
      ['zero', 1 << 20, 65536],
    ],
  )
  same(folders, 'empty.qcow2')
  const [theirs, ours] = folders.map((path) => join(path, 'empty.qcow2')) as [string, string]
  expect(statSync(ours).size).toBe(statSync(theirs).size)
  expect(Buffer.compare(readFileSync(ours), readFileSync(theirs))).toBe(0)
})

function copyBeforeWrite(path: string, more: object = {}): OptionTree {
  return {
    driver: 'copy-before-write',
    file: { driver: 'qcow2', file: { driver: 'file', filename: join(path, 'top.qcow2') } },
    target: { driver: 'qcow2', file: { driver: 'file', filename: join(path, 'empty.qcow2') } },
    ...more,
  } as OptionTree
}

test('copy-before-write saves the same clusters, zeroes as zeroes', async () => {
  const pair = await both(
    (path) => copyBeforeWrite(path),
    [
      ['write', 1000, 3000],
      ['write', 500 * 1024, 100 * 1024],
      ['zero', 2 << 20, 65536],
      ['write', (3 << 20) + 100, 700 * 1024],
      ['write', 1000, 10],
    ],
  )
  // The order in which clusters are copied, and so their places, is anyone's business.
  expect(kinds(pair[1], 'empty.qcow2')).toEqual(kinds(pair[0], 'empty.qcow2'))
  expect(
    qemu('qemu-img', ['compare', join(pair[0], 'empty.qcow2'), join(pair[1], 'empty.qcow2')], root),
  ).toContain('identical')
  same(pair, 'top.qcow2')
})

/** What each 64 KiB of an image are. */
function kinds(path: string, image: string): string[] {
  return map(path, image).flatMap(({ length, ...rest }) =>
    Array.from({ length: length / 65536 }, () => JSON.stringify({ ...rest, start: 0 })),
  )
}

test('copy-before-write refuses what QEMU refuses', async () => {
  const path = folder('ours')
  const said = (options: OptionTree): string => {
    try {
      return qemu('qemu-io', ['-c', 'quit', `json:${JSON.stringify(options)}`], path)
    } catch (error) {
      return String((error as { stderr: string }).stderr)
    }
  }
  const image = copyBeforeWrite(path)
  const { target: _target, ...untargeted } = image
  const refused = [
    untargeted,
    { ...image, 'on-cbw-error': 'nonsense' },
    { ...image, bitmap: { node: 'nobody', name: 'x' } },
    { ...image, bitmap: { name: 'x' } },
    { ...image, target: { ...(image.target as object), 'read-only': true } },
  ] as OptionTree[]
  for (const options of refused) {
    const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
    const message = await Backend.open(layer, undefined, options, { write: true }).then(
      () => 'opened',
      (error: Error) => error.message,
    )
    await layer.closeAll()
    expect(said(options)).toContain(`: ${message}\n`)
  }
})
