import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer } from '../../../src/graph/index.js'
import { createNodeHost } from '../../../src/platform/node/index.js'
import { Workshop } from '../image/qemu.js'

/** The mark of an image that is being written to, and what either side makes of the other's. */
const shop = new Workshop()

beforeAll(() => {
  shop.img('create', '-q', '-f', 'qed', 'base', '5M')
  shop.run('qemu-io', '-f', 'qed', '-c', 'write -P 7 64k 8k', 'base')
})

afterAll(() => shop.clear())

function fresh(name: string, backing: boolean): void {
  if (backing) {
    shop.img('create', '-q', '-f', 'qed', '-b', 'base', '-F', 'qed', name)
  } else {
    fs.copyFileSync(shop.path('base'), shop.path(name))
  }
}

/** Byte 16 of the file: features. */
function features(name: string): number {
  return fs.readFileSync(shop.path(name))[16] ?? 0
}

/** QEMU writes and crashes. */
function crash(name: string, command: string): void {
  const { signal } = spawnSync('qemu-io', ['-f', 'qed', '-c', command, '-c', 'abort', name], {
    cwd: shop.folder,
  })
  expect(signal).toBe('SIGABRT')
}

test.each([
  ['write 1M 4k', false],
  ['write 64k 4k', false],
  ['write 68k 64k', false],
  ['write -z 2M 64k', false],
  ['write -z 64k 64k', false],
  ['write 1M 4k', true],
  ['write -z 2M 64k', true],
  ['read 1M 4k', false],
])('while `%s` is done, over a backing file: %s', async (command, backing) => {
  fresh('theirs', backing)
  crash('theirs', command)
  fresh('ours', backing)
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const node = await layer.open(shop.path('ours'), { driver: 'qed' }, { write: true })
  const words = command.split(' ')
  const sizes = words
    .slice(-2)
    .map((word) => Number.parseInt(word, 10) * (word.endsWith('M') ? 1 << 20 : 1024))
  const [offset = 0, bytes = 0] = sizes
  const data = new Uint8Array(bytes)
  try {
    await (words[0] === 'read'
      ? node.read(offset, bytes, data, 0, 0)
      : words.length === 4
        ? node.writeZeroes(offset, bytes, 0)
        : node.write(offset, bytes, data, 0, 0))
    expect(features('ours')).toBe(features('theirs'))
  } finally {
    await layer.unref(node)
  }
  expect(features('ours') & 2).toBe(0)
})

test("QEMU's crashed image is ours to repair, and reads as QEMU reads it", async () => {
  fresh('crashed', false)
  crash('crashed', 'write -P 9 1M 200k')
  expect(features('crashed')).toBe(2)
  fs.copyFileSync(shop.path('crashed'), shop.path('copy'))
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const node = await layer.open(shop.path('crashed'), { driver: 'qed' }, { write: true })
  await layer.unref(node)
  expect(features('crashed')).toBe(0)
  shop.run('qemu-io', '-f', 'qed', '-c', 'read 0 512', 'copy')
  expect(Buffer.compare(fs.readFileSync(shop.path('crashed')), fs.readFileSync(shop.path('copy')))).toBe(0)
})

test('errors that stay do not keep the mark, as in QEMU', async () => {
  fresh('twice', false)
  const bytes = fs.readFileSync(shop.path('twice'))
  const table = bytes.readUInt32LE(65536)
  // Cluster 0 is cluster 1.
  bytes.copy(bytes, table, table + 8, table + 16)
  bytes[16] = 2
  fs.writeFileSync(shop.path('twice'), bytes)
  fs.copyFileSync(shop.path('twice'), shop.path('copy'))
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  await layer.unref(await layer.open(shop.path('twice'), { driver: 'qed' }, { write: true }))
  shop.run('qemu-io', '-f', 'qed', '-c', 'read 0 512', 'copy')
  expect(Buffer.compare(fs.readFileSync(shop.path('twice')), fs.readFileSync(shop.path('copy')))).toBe(0)
})

test('QEMU opens for writing what our crash leaves', async () => {
  fresh('left', false)
  const layer = createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
  const node = await layer.open(shop.path('left'), { driver: 'qed' }, { write: true })
  await node.write(1 << 20, 4096, new Uint8Array(4096).fill(5), 0, 0)
  await node.flush()
  await node.write(2 << 20, 4096, new Uint8Array(4096).fill(6), 0, 0)
  fs.copyFileSync(shop.path('left'), shop.path('copy'))
  await layer.unref(node)
  expect(features('copy')).toBe(2)
  shop.run('qemu-io', '-f', 'qed', '-c', 'read -P 5 1M 4k', '-c', 'read -P 7 64k 8k', 'copy')
  expect(features('copy')).toBe(0)
})
