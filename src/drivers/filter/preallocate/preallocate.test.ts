import { expect, test } from 'vitest'
import { Backend, createBlockLayer, reopenSetReadOnly, truncateNode } from '../../../graph/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { preallocate } from './index.js'

const mib = 1 << 20

async function setup(length = 0) {
  const host = new MemoryHost({ delay: () => 2 })
  const contents = host.put('/a', new Uint8Array(length).fill(7))
  const layer = createBlockLayer({ host, drivers: [preallocate, file] })
  const image = await Backend.open(
    layer,
    undefined,
    { driver: 'preallocate', 'prealloc-size': 4 * mib, file: { driver: 'file', filename: '/a' } },
    { write: true, resize: true, noShare: true },
  )
  image.allowBeyondEnd = true
  return { contents, layer, image }
}

test('grows ahead of writes and is cut to size at the end', async () => {
  const { contents, image } = await setup(4096)
  await image.write(4096, 512, new Uint8Array(512).fill(1))
  expect(contents.size).toBe(5 * mib)
  expect(image.length).toBe(4608)
  await image.write(4608, 1024, new Uint8Array(1024).fill(2))
  expect(contents.size).toBe(5 * mib)
  expect(image.length).toBe(5632)
  await image.close()
  expect(contents.size).toBe(5632)
  const bytes = contents.bytes()
  expect([bytes[4095], bytes[4096], bytes[4608], bytes[5631]]).toEqual([7, 1, 2, 2])
})

test('writes beside each other while the file grows keep their data', async () => {
  const { contents, image } = await setup()
  const waits: unknown[] = []
  for (const at of [9, 3, 7, 0, 8, 1, 5, 2, 6, 4]) {
    waits.push(image.write(at * 512, 512, new Uint8Array(512).fill(at + 1)))
  }
  await Promise.all(waits)
  await image.close()
  expect(contents.size).toBe(5120)
  const bytes = contents.bytes()
  for (let at = 0; at < 10; at++) {
    expect(bytes.subarray(at * 512, (at + 1) * 512).every((byte) => byte === at + 1)).toBe(true)
  }
})

test('zeroes behind the end are there already', async () => {
  const { contents, image } = await setup()
  await image.writeZeroes(0, 65536)
  expect(contents.size).toBe(5 * mib)
  await image.writeZeroes(65536, 65536)
  expect(image.length).toBe(131072)
  await image.close()
  expect(contents.size).toBe(131072)
})

test('truncation sees the length of the data', async () => {
  const { contents, image } = await setup()
  await image.write(0, 512, new Uint8Array(512).fill(1))
  await truncateNode(image.node, 1024, { exact: true, preallocation: 'off', zero: false })
  expect(contents.size).toBe(1024)
  await image.write(1024, 512, new Uint8Array(512).fill(1))
  expect(contents.size).toBe(5 * mib)
  await truncateNode(image.node, 2 * mib, { exact: true, preallocation: 'falloc', zero: false })
  expect(image.length).toBe(2 * mib)
  expect(contents.size).toBe(5 * mib)
  await image.close()
  expect(contents.size).toBe(2 * mib)
})

test('gives the preallocation back with the permission to resize', async () => {
  const { contents, image } = await setup()
  await image.write(0, 512, new Uint8Array(512).fill(1))
  expect(contents.size).toBe(5 * mib)
  await image.setPermissions(3, 15)
  expect(contents.size).toBe(512)
  await image.close()
  expect(contents.size).toBe(512)
})

test('becoming read-only gives the preallocation back, writable again it grows ahead again', async () => {
  const { contents, image } = await setup(4096)
  await image.write(4096, 512, new Uint8Array(512).fill(1))
  expect(contents.size).toBe(5 * mib)
  await image.setPermissions(1, 15)
  await reopenSetReadOnly(image.node, true)
  expect(image.node.readOnly).toBe(true)
  expect(contents.size).toBe(4608)
  expect(image.length).toBe(4608)
  await reopenSetReadOnly(image.node, false)
  await image.setPermissions(1 | 2 | 8, 15)
  await image.write(4608, 512, new Uint8Array(512).fill(2))
  expect(contents.size).toBe(5 * mib)
  await image.close()
  expect(contents.size).toBe(5120)
  expect([contents.bytes()[4095], contents.bytes()[4607], contents.bytes()[5119]]).toEqual([7, 1, 2])
})

test('a writer that let go of its permissions has none after the image became read-only', async () => {
  const { contents, image } = await setup()
  await image.write(0, 700, new Uint8Array(700).fill(1))
  await image.setPermissions(1, 15)
  expect(contents.size).toBe(700)
  await reopenSetReadOnly(image.node, true)
  await expect(image.setPermissions(1 | 2, 15)).rejects.toThrow('read-only')
  expect(contents.size).toBe(700)
  await image.close()
})
