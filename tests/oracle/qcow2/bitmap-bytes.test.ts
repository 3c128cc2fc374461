import { spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { Backend, createBlockLayer, Perm, truncateNode } from '../../../src/graph/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import { Folder, firstDifference, io, ours, theirs } from './tools.js'

/**
 * Dirty bitmaps against QEMU, both ways: the same command lines and the same guest writes leave the
 * same bytes, and each side reads what the other has stored.
 */
const folder = new Folder()
const sequences = process.env.BLOCKGRAPH_FULL_MATRIX === undefined ? 2 : 40

afterAll(() => folder.remove())

function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

interface Area {
  readonly offset: number
  readonly bytes: number
}

interface Bits {
  readonly recording: boolean
  readonly granularity: number
  readonly inconsistent: boolean
  readonly areas: Area[]
}

/** What our side sees of the bitmaps of an image, by name. */
async function bitmapsOf(file: string): Promise<Record<string, Bits>> {
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const node = await layer.open(file, { driver: 'qcow2' })
  const found: Record<string, Bits> = {}
  for (const bitmap of node.dirtyBitmaps) {
    const areas: Area[] = []
    for (let area = bitmap.nextDirtyArea(0); area !== undefined; ) {
      areas.push(area)
      area = bitmap.nextDirtyArea(area.offset + area.bytes)
    }
    const { recording, granularity, inconsistent } = bitmap
    found[bitmap.name ?? ''] = { recording, granularity, inconsistent, areas }
  }
  await layer.unref(node)
  return found
}

function expectSound(cwd: string, image: string): void {
  const check = theirs(cwd, 'check', '-f', 'qcow2', image)
  expect(check.stdout + check.stderr).toContain('No errors were found')
  expect(check.status).toBe(0)
}

describe('the same commands leave the same bytes', () => {
  const shapes = [
    { cluster: 65536, size: 64 << 20 },
    { cluster: 4096, size: (8 << 20) + 512 },
    { cluster: 512, size: 3 << 20 },
  ]
  for (const { cluster, size } of shapes) {
    test(`clusters of ${cluster}`, async () => {
      for (let seed = 1; seed <= sequences; seed++) {
        const pick = random(seed * 77 + cluster)
        const mine = folder.sub(`mine-${cluster}-${seed}`)
        const other = folder.sub(`theirs-${cluster}-${seed}`)
        for (const cwd of [mine, other]) {
          theirs(cwd, 'create', '-f', 'qcow2', '-o', `cluster_size=${cluster}`, 'd', String(size))
        }
        const names = ['a', 'bb', 'a longer name of a bitmap']
        for (let step = 0; step < 14; step++) {
          const name = names[pick(names.length)] ?? ''
          const from = names[pick(names.length)] ?? ''
          const granularity = ['512', '4k', '64k', '1M'][pick(4)] ?? ''
          const choices: string[][] = [
            ['--add', '-g', granularity],
            ['--add', '-g', granularity],
            ['--add', '--disable'],
            ['--remove'],
            ['--clear'],
            ['--enable'],
            ['--disable'],
            ['--merge', from],
          ]
          const how = pick(choices.length + 3)
          const choice = choices[how]
          if (choice === undefined) {
            const at = pick(size / 512 - 400) * 512
            const bytes = (1 + pick(300)) * 512
            const kind = ['write -P 5', 'write -z', 'discard'][pick(3)] ?? ''
            for (const cwd of [mine, other]) {
              io(cwd, 'd', `${kind} ${at} ${bytes}`)
            }
            continue
          }
          const args = ['bitmap', ...choice, 'd', name]
          const expected = theirs(other, ...args)
          const got = await ours(mine, ...args)
          expect([got.status, got.stderr], args.join(' ')).toEqual([expected.status, expected.stderr])
        }
        const images = [mine, other].map((cwd) => fs.readFileSync(path.join(cwd, 'd')))
        const [a = new Uint8Array(0), b = new Uint8Array(0)] = images
        expect(firstDifference(a, b), `seed ${seed}`).toBeUndefined()
        expectSound(mine, 'd')
      }
    })
  }
})

test('writes through our side are recorded as QEMU records them', async () => {
  const cwd = folder.sub('record')
  const size = 4 << 20
  for (const name of ['mine', 'theirs']) {
    theirs(cwd, 'create', '-f', 'qcow2', name, String(size))
    theirs(cwd, 'bitmap', '--add', '-g', '4k', name, 'fine')
    theirs(cwd, 'bitmap', '--add', '-g', '512k', name, 'coarse')
    theirs(cwd, 'bitmap', '--add', '--disable', name, 'off')
  }
  io(
    cwd,
    'theirs',
    'write -P 1 10k 3k',
    'write -z 1M 70000',
    'write -z -u 2M 64k',
    'discard 3M 128k',
    'write -P 1 4193792 512',
  )
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const image = await Backend.open(
    layer,
    path.join(cwd, 'mine'),
    { driver: 'qcow2' },
    { write: true, unmap: true },
  )
  await image.write(10 << 10, 3 << 10, new Uint8Array(3 << 10).fill(1))
  await image.writeZeroes(1 << 20, 70000)
  await image.writeZeroes(2 << 20, 64 << 10, 4)
  await image.discard(3 << 20, 128 << 10)
  await image.write(4193792, 512, new Uint8Array(512).fill(1))
  // Reading changes nothing.
  await image.read(0, 4096, new Uint8Array(4096))
  await image.close()
  const mine = await bitmapsOf(path.join(cwd, 'mine'))
  expect(mine).toEqual(await bitmapsOf(path.join(cwd, 'theirs')))
  expect(mine.fine?.areas).toEqual([
    { offset: 8 << 10, bytes: 8 << 10 },
    { offset: 1 << 20, bytes: 72 << 10 },
    { offset: 2 << 20, bytes: 64 << 10 },
    { offset: 3 << 20, bytes: 128 << 10 },
    { offset: 4190208, bytes: 4096 },
  ])
  expect(mine.off?.areas).toEqual([])
  expectSound(cwd, 'mine')
  const named = (name: string) =>
    JSON.parse(theirs(cwd, 'info', '--output=json', name).stdout)['format-specific'].data.bitmaps
  expect(named('mine')).toEqual(named('theirs'))
})

test('an image that is not closed has inconsistent bitmaps, for both sides', async () => {
  const cwd = folder.sub('crash')
  theirs(cwd, 'create', '-f', 'qcow2', 'd', '1M')
  theirs(cwd, 'bitmap', '--add', 'd', 'b')
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const image = await Backend.open(layer, path.join(cwd, 'd'), { driver: 'qcow2' }, { write: true })
  await image.write(0, 512, new Uint8Array(512).fill(1))
  await image.flush()
  fs.copyFileSync(path.join(cwd, 'd'), path.join(cwd, 'left'))
  await image.close()
  expect((await bitmapsOf(path.join(cwd, 'left'))).b).toMatchObject({ inconsistent: true, recording: false })
  const info = JSON.parse(theirs(cwd, 'info', '--output=json', 'left').stdout)
  expect(info['format-specific'].data.bitmaps).toEqual([
    { flags: ['in-use', 'auto'], name: 'b', granularity: 65536 },
  ])
  expect(theirs(cwd, 'bitmap', '--clear', 'left', 'b').stderr).toContain(
    "Bitmap 'b' is inconsistent and cannot be used",
  )
  expect((await ours(cwd, 'bitmap', '--remove', 'left', 'b')).status).toBe(0)
  expectSound(cwd, 'left')
  expectSound(cwd, 'd')
})

test('a resized image takes its bitmaps along', async () => {
  for (const target of [9 << 20, 1 << 20, 700 * 512]) {
    const cwd = folder.sub(`resize-${target}`)
    for (const name of ['mine', 'theirs']) {
      theirs(cwd, 'create', '-f', 'qcow2', '-o', 'cluster_size=512', name, '4M')
      theirs(cwd, 'bitmap', '--add', '-g', '512', name, 'b')
      theirs(cwd, 'bitmap', '--add', name, 'c')
      io(cwd, name, 'write 0 1000', 'write 300k 100k', 'write 3M 100k')
    }
    const args = ['resize', '--shrink', '-f', 'qcow2']
    expect(theirs(cwd, ...args, 'theirs', String(target)).status).toBe(0)
    expect(await ours(cwd, ...args, 'mine', String(target))).toMatchObject({ status: 0 })
    expect(await bitmapsOf(path.join(cwd, 'mine'))).toEqual(await bitmapsOf(path.join(cwd, 'theirs')))
    expectSound(cwd, 'mine')
  }
})

test('what a write leaves in between stays in between: truncating our node while it is open', async () => {
  const cwd = folder.sub('truncate')
  theirs(cwd, 'create', '-f', 'qcow2', 'd', '1M')
  theirs(cwd, 'bitmap', '--add', 'd', 'b')
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const image = await Backend.open(
    layer,
    path.join(cwd, 'd'),
    { driver: 'qcow2' },
    { write: true },
    { perm: Perm.all },
  )
  await truncateNode(image.node, 10 << 20, { exact: true, preallocation: 'off', zero: false })
  await image.write(9 << 20, 512, new Uint8Array(512).fill(1))
  await image.close()
  expectSound(cwd, 'd')
  expect((await bitmapsOf(path.join(cwd, 'd'))).b?.areas).toEqual([{ offset: 9 << 20, bytes: 65536 }])
})

describe('convert --bitmaps', () => {
  test.each(['512', '4k', '2M'])('to clusters of %s', async (cluster) => {
    const cwd = folder.sub(`convert-${cluster}`)
    theirs(cwd, 'create', '-f', 'qcow2', 's', '20M')
    theirs(cwd, 'bitmap', '--add', '-g', '512', 's', 'fine')
    io(cwd, 's', 'write -P 3 100k 300k', 'write -P 4 19M 1M')
    theirs(cwd, 'bitmap', '--add', '--disable', 's', 'off')
    theirs(cwd, 'bitmap', '--add', 's', 'new')
    const args = ['convert', '--bitmaps', '-O', 'qcow2', '-o', `cluster_size=${cluster}`, 's']
    expect(theirs(cwd, ...args, 'theirs').status).toBe(0)
    expect(await ours(cwd, ...args, 'mine')).toEqual({ status: 0, stdout: '', stderr: '' })
    const source = await bitmapsOf(path.join(cwd, 's'))
    expect(await bitmapsOf(path.join(cwd, 'mine'))).toEqual(source)
    expect(await bitmapsOf(path.join(cwd, 'theirs'))).toEqual(source)
    expect(theirs(cwd, 'compare', 's', 'mine').status).toBe(0)
    expectSound(cwd, 'mine')
    const bitmaps = (name: string) =>
      JSON.parse(theirs(cwd, 'info', '--output=json', name).stdout)['format-specific'].data.bitmaps
    expect(bitmaps('mine')).toEqual(bitmaps('theirs'))
    // What QEMU then merges from ours is what it merges from its own.
    for (const name of ['mine', 'theirs']) {
      expect(theirs(cwd, 'bitmap', '--merge', 'fine', name, 'new').status).toBe(0)
    }
    expect(await bitmapsOf(path.join(cwd, 'mine'))).toEqual(await bitmapsOf(path.join(cwd, 'theirs')))
  })
})

test('a commit records in the bitmaps of the base, which was read-only until then', async () => {
  const cwd = folder.sub('commit')
  for (const [tool, name] of [
    [theirs, 'theirs'],
    [ours, 'mine'],
  ] as const) {
    theirs(cwd, 'create', '-f', 'qcow2', `base-${name}`, '4M')
    theirs(cwd, 'bitmap', '--add', `base-${name}`, 'b')
    theirs(cwd, 'create', '-f', 'qcow2', '-b', `base-${name}`, '-F', 'qcow2', `top-${name}`)
    theirs(cwd, 'bitmap', '--add', '-g', '4k', `top-${name}`, 't')
    io(cwd, `top-${name}`, 'write 1M 70k', 'write -z 2M 64k', 'discard 3M 64k')
    expect((await tool(cwd, 'commit', `top-${name}`)).status).toBe(0)
  }
  for (const image of ['base', 'top']) {
    const mine = await bitmapsOf(path.join(cwd, `${image}-mine`))
    expect(mine).toEqual(await bitmapsOf(path.join(cwd, `${image}-theirs`)))
    expectSound(cwd, `${image}-mine`)
  }
  expect((await bitmapsOf(path.join(cwd, 'base-mine'))).b?.areas.length).toBeGreaterThan(0)
})

test("QEMU's NBD server shows the bits that we have stored", async () => {
  const cwd = folder.sub('nbd')
  theirs(cwd, 'create', '-f', 'qcow2', '-o', 'cluster_size=512', 'd', '8M')
  expect((await ours(cwd, 'bitmap', '--add', '-g', '512', 'd', 'b')).status).toBe(0)
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const image = await Backend.open(layer, path.join(cwd, 'd'), { driver: 'qcow2' }, { write: true })
  const pick = random(4)
  const expected = new Set<number>()
  for (let i = 0; i < 40; i++) {
    const first = pick(16000)
    const count = 1 + pick(i % 4 === 0 ? 200 : 2)
    await image.write(first * 512, count * 512, new Uint8Array(count * 512).fill(1))
    for (let at = first; at < first + count; at++) {
      expected.add(at)
    }
  }
  await image.close()
  const socket = path.join(cwd, 's')
  const server = spawn('qemu-nbd', ['-r', '-f', 'qcow2', '-B', 'b', '-k', socket, 'd'], {
    cwd,
    stdio: 'ignore',
  })
  try {
    const deadline = Date.now() + 20_000
    while (!fs.existsSync(socket)) {
      expect(Date.now()).toBeLessThan(deadline)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    const options = `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=qemu:dirty-bitmap:b`
    const map = theirs(cwd, 'map', '--output=json', '--image-opts', options)
    expect(map.stderr).toBe('')
    const dirty: number[] = []
    for (const { start, length, data } of JSON.parse(map.stdout)) {
      for (let at = start; !data && at < start + length; at += 512) {
        dirty.push(at / 512)
      }
    }
    expect(dirty).toEqual([...expected].sort((a, b) => a - b))
  } finally {
    server.kill()
  }
})
