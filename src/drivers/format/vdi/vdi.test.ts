import { expect, test } from 'vitest'
import { readU32LE, writeU32LE } from '../../../bytes/index.js'
import {
  Backend,
  type BlockLayer,
  checkNode,
  createBlockLayer,
  createWithDriver,
  truncateNode,
} from '../../../graph/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { vdi } from './index.js'

const mib = 1 << 20

async function setup(size: number, options: Record<string, boolean> = {}) {
  const host = new MemoryHost()
  const layer = createBlockLayer({ host, drivers: [vdi, file] })
  await createWithDriver(layer, vdi, '/a', { size, ...options })
  return { host, layer }
}

function open(layer: BlockLayer, write = true): Promise<Backend> {
  return Backend.open(layer, '/a', { driver: 'vdi' }, { write, resize: write })
}

async function fill(image: Backend, offset: number, bytes: number, value: number): Promise<void> {
  await image.write(offset, bytes, new Uint8Array(bytes).fill(value))
}

async function byteAt(image: Backend, offset: number): Promise<number | undefined> {
  const buffer = new Uint8Array(512)
  await image.read(Math.floor(offset / 512) * 512, 512, buffer)
  return buffer[offset % 512]
}

test('golden: an image made byte by byte', async () => {
  const image = new Uint8Array(1024 + 2 * mib)
  image.set(new TextEncoder().encode('made by hand'))
  const fields: [number, number][] = [
    [0x40, 0xbeda107f],
    [0x44, 0x10001],
    [0x48, 0x190],
    [0x4c, 1],
    [0x154, 512],
    [0x158, 1024],
    [0x168, 512],
    [0x170, 4 * mib - 100],
    [0x178, mib],
    [0x180, 4],
    [0x184, 2],
    [0x188, 1],
    // Block 1 is the second one in the file, 2 was discarded, 3 is the first one in the file.
    [512, 0xffffffff],
    [516, 1],
    [520, 0xfffffffe],
    [524, 0],
  ]
  for (const [at, value] of fields) {
    writeU32LE(image, at, value)
  }
  image.fill(1, 1024, 1024 + mib)
  image.fill(2, 1024 + mib)
  const host = new MemoryHost()
  host.put('/a', image)
  const opened = await open(createBlockLayer({ host, drivers: [vdi, file] }))
  expect(opened.length).toBe(4 * mib)
  const seen = await Promise.all(
    [0, mib, 2 * mib - 1, 2 * mib, 3 * mib, 4 * mib - 1].map((at) => byteAt(opened, at)),
  )
  expect(seen).toEqual([0, 2, 2, 0, 1, 1])
  await fill(opened, 2 * mib + 512, 512, 9)
  await opened.close()
  const bytes = host.contents('/a')?.bytes() as Uint8Array
  expect([readU32LE(bytes, 520), readU32LE(bytes, 0x184), bytes.length]).toEqual([2, 3, 1024 + 3 * mib])
  expect([bytes[1024 + 2 * mib + 511], bytes[1024 + 2 * mib + 512]]).toEqual([0, 9])
})

test('a map without room moves where the first blocks were, which go behind the last', async () => {
  const { host, layer } = await setup(3 * mib)
  const image = await open(layer)
  for (const [block, value] of [
    [2, 3],
    [0, 1],
    [1, 2],
  ] as const) {
    await fill(image, block * mib, mib, value)
  }
  await truncateNode(image.node, 500 * mib, { exact: true, preallocation: 'off', zero: false })
  await fill(image, 499 * mib, 512, 4)
  expect(await Promise.all([0, mib, 2 * mib, 3 * mib, 499 * mib].map((at) => byteAt(image, at)))).toEqual([
    1, 2, 3, 0, 4,
  ])
  await image.close()
  const bytes = host.contents('/a')?.bytes() as Uint8Array
  expect([readU32LE(bytes, 0x154), readU32LE(bytes, 0x158), readU32LE(bytes, 0x184)]).toEqual([
    1024,
    1024 + mib,
    4,
  ])
  const again = await open(layer, false)
  expect(await Promise.all([0, mib, 2 * mib, 3 * mib, 499 * mib].map((at) => byteAt(again, at)))).toEqual([
    1, 2, 3, 0, 4,
  ])
  expect((await checkNode(again.node, { leaks: false, errors: false })).corruptions).toBe(0)
  await again.close()
})

test('a count of blocks that is too high is a leak; gaps are closed by a repair', async () => {
  const { host, layer } = await setup(8 * mib)
  const image = await open(layer)
  for (const block of [0, 1, 2, 3, 4]) {
    await fill(image, block * mib, mib, block + 1)
  }
  await image.close()
  const contents = host.contents('/a')
  const bytes = contents?.bytes() as Uint8Array
  // Blocks 1 and 2 of the disk are gone: two gaps.
  writeU32LE(bytes, 512 + 4, 0xffffffff)
  writeU32LE(bytes, 512 + 8, 0xffffffff)
  host.put('/a', bytes)
  const broken = await Backend.open(layer, '/a', { driver: 'vdi' }, { write: true, check: true })
  const found = await checkNode(broken.node, { leaks: false, errors: false })
  expect([found.leaks, found.corruptions]).toEqual([2, 0])
  expect(found.messages).toEqual(['ERROR: allocated blocks mismatch, is 3, should be 5'])
  const fixed = await checkNode(broken.node, { leaks: true, errors: false })
  expect([fixed.leaks, fixed.leaksFixed]).toEqual([0, 2])
  const after = await checkNode(broken.node, { leaks: false, errors: false })
  expect([after.leaks, after.corruptions, after.messages]).toEqual([0, 0, []])
  expect(await Promise.all([0, mib, 2 * mib, 3 * mib, 4 * mib].map((at) => byteAt(broken, at)))).toEqual([
    1, 0, 0, 4, 5,
  ])
  await broken.close()
})

test('a count below a block in use is corrupt, and nothing is overwritten all the same', async () => {
  const { host, layer } = await setup(4 * mib)
  const image = await open(layer)
  await fill(image, 0, mib, 1)
  await fill(image, mib, mib, 2)
  await image.close()
  const bytes = host.contents('/a')?.bytes() as Uint8Array
  writeU32LE(bytes, 0x184, 0)
  host.put('/a', bytes)
  const low = await open(layer)
  expect((await checkNode(low.node, { leaks: false, errors: false })).corruptions).toBe(1)
  await fill(low, 2 * mib, 512, 3)
  expect(await Promise.all([0, mib, 2 * mib].map((at) => byteAt(low, at)))).toEqual([1, 2, 3])
  await low.close()
  expect(readU32LE(host.contents('/a')?.bytes() as Uint8Array, 0x184)).toBe(3)
})
