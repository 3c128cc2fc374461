import { expect, test } from 'vitest'
import { writeU32LE, writeU64LE } from '../../../bytes/index.js'
import { type BlockLayer, type BlockNode, createBlockLayer, truncateNode } from '../../../graph/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { raw } from '../raw/index.js'
import { qed } from './index.js'

const cluster = 4096

function setup(): { host: MemoryHost; layer: BlockLayer } {
  const host = new MemoryHost()
  return { host, layer: createBlockLayer({ host, drivers: [raw, qed, file] }) }
}

interface Parts {
  readonly size?: number
  readonly features?: number
  readonly autoclear?: number
  readonly backing?: string
  /** Entries of the first-level table, which stands in cluster 1, and of the second-level table in cluster 2. */
  readonly l1?: readonly number[]
  readonly l2?: readonly number[]
  readonly clusters?: number
}

/** An image of clusters of 4 KiB and tables of one cluster. */
function image(parts: Parts): Uint8Array {
  const bytes = new Uint8Array((parts.clusters ?? 5) * cluster)
  const name = new TextEncoder().encode(parts.backing ?? '')
  bytes.set([0x51, 0x45, 0x44, 0])
  writeU32LE(bytes, 4, cluster)
  writeU32LE(bytes, 8, 1)
  writeU32LE(bytes, 12, 1)
  writeU64LE(bytes, 16, (parts.features ?? 0) | (name.length > 0 ? 1 : 0))
  writeU64LE(bytes, 32, parts.autoclear ?? 0)
  writeU64LE(bytes, 40, cluster)
  writeU64LE(bytes, 48, parts.size ?? 65536)
  writeU32LE(bytes, 56, name.length > 0 ? 100 : 0)
  writeU32LE(bytes, 60, name.length)
  bytes.set(name, 100)
  for (const [i, entry] of (parts.l1 ?? [2 * cluster]).entries()) {
    writeU64LE(bytes, cluster + i * 8, entry)
  }
  for (const [i, entry] of (parts.l2 ?? []).entries()) {
    writeU64LE(bytes, 2 * cluster + i * 8, entry)
  }
  return bytes
}

async function read(node: BlockNode, offset: number, bytes: number): Promise<Uint8Array> {
  const data = new Uint8Array(bytes)
  await node.read(offset, bytes, data, 0, 0)
  return data
}

const growing = { exact: true, preallocation: 'off', zero: true } as const

test('golden: an image made byte by byte, over a backing file', async () => {
  const { host, layer } = setup()
  const bytes = image({ backing: 'base', features: 4, l2: [0, 4 * cluster, 1, 3 * cluster] })
  bytes.fill(0x11, 3 * cluster, 4 * cluster)
  bytes.fill(0x22, 4 * cluster, 5 * cluster)
  host.put('/image', bytes)
  host.put('/base', new Uint8Array(65536).fill(0x33))
  const node = await layer.open('/image', {})
  expect([node.driver?.name, node.backingFile, node.state?.backingFormat]).toEqual(['qed', 'base', 'raw'])
  const data = await read(node, 0, 65536)
  const at = [0, 4095, 4096, 8191, 8192, 12287, 12288, 16383, 16384, 65535]
  expect(at.map((offset) => data[offset])).toEqual([0x33, 0x33, 0x22, 0x22, 0, 0, 0x11, 0x11, 0x33, 0x33])
  await layer.unref(node)
})

test('around a write to a part of a zero cluster are zeroes, whatever the backing file has there', async () => {
  const { host, layer } = setup()
  host.put('/image', image({ backing: 'base', features: 4, l2: [1, 1], clusters: 3 }))
  host.put('/base', new Uint8Array(65536).fill(0x33))
  const node = await layer.open('/image', {}, { write: true })
  await node.write(1024, 6144, new Uint8Array(6144).fill(5), 0, 0)
  const expected = new Uint8Array(3 * cluster).fill(0, 0, 2 * cluster).fill(0x33, 2 * cluster)
  expected.fill(5, 1024, 1024 + 6144)
  expect(Buffer.compare(await read(node, 0, 3 * cluster), expected)).toBe(0)
  await layer.unref(node)
})

test('golden: a new image, and one with a cluster', async () => {
  const { host, layer } = setup()
  host.put('/image', image({ l1: [], clusters: 2 }))
  const node = await layer.open('/image', {}, { write: true })
  await node.write(4096 + 10, 3, Uint8Array.of(7, 8, 9), 0, 0)
  await layer.unref(node)
  // The data comes first, then the table.
  const expected = image({ l1: [3 * cluster], clusters: 4 })
  expected.set([7, 8, 9], 2 * cluster + 10)
  writeU64LE(expected, 3 * cluster + 8, 2 * cluster)
  expect(Buffer.compare(host.contents('/image')?.bytes() ?? new Uint8Array(0), expected)).toBe(0)
})

test('an image that was not closed is repaired when it is opened for writing, and only then', async () => {
  const { host, layer } = setup()
  host.put('/image', image({ features: 2, l2: [3 * cluster, 77 * cluster, 5], clusters: 4 }))
  const reader = await layer.open('/image', {})
  expect(reader.state?.info?.()).toMatchObject({ isDirty: true })
  await layer.unref(reader)
  const writer = await layer.open('/image', {}, { write: true })
  expect(writer.state?.info?.()).toMatchObject({ isDirty: false })
  await layer.unref(writer)
  const expected = image({ features: 0, l2: [3 * cluster], clusters: 4 })
  expect(Buffer.compare(host.contents('/image')?.bytes() ?? new Uint8Array(0), expected)).toBe(0)
})

test('unknown autoclear bits go before anything is written', async () => {
  const { host, layer } = setup()
  host.put('/image', image({ autoclear: 6 }))
  await layer.unref(await layer.open('/image', {}))
  expect(host.contents('/image')?.bytes()[32]).toBe(6)
  await layer.unref(await layer.open('/image', {}, { write: true }))
  expect(host.contents('/image')?.bytes()[32]).toBe(0)
})

test('clusters that are used twice are told and stay', async () => {
  const { host, layer } = setup()
  host.put('/image', image({ l2: [3 * cluster, 3 * cluster, cluster], clusters: 5 }))
  const node = await layer.open('/image', {}, { write: true, check: true })
  const result = await node.state?.check?.({ leaks: true, errors: true })
  expect(result).toMatchObject({ corruptions: 2, corruptionsFixed: 0, leaks: 1, allocatedClusters: 3 })
  await layer.unref(node)
})

test.each<[what: string, parts: Parts]>([
  ['a table within the first-level table', { l1: [cluster] }],
  ['a table in the header', { l1: [0, 8] }],
  ['a table behind the end', { l1: [2 ** 53 - 8] }],
  ['a cluster within the first-level table', { l2: [cluster] }],
  ['a cluster in the header', { l2: [512] }],
  ['a cluster behind the end', { l2: [2 ** 52] }],
])('%s is not written to', async (_what, parts) => {
  const { host, layer } = setup()
  host.put('/image', image({ size: 4 << 20, ...parts }))
  const before = host.contents('/image')?.bytes().slice() ?? new Uint8Array(0)
  const node = await layer.open('/image', {}, { write: true })
  const at = parts.l1?.length === 2 ? 2 << 20 : 0
  const data = new Uint8Array(4096).fill(1)
  await expect((async () => node.write(at, 4096, data, 0, 0))()).rejects.toMatchObject({
    code: expect.stringMatching(/EIO|EINVAL/),
  })
  await expect((async () => node.writeZeroes(at, 4096, 0))()).rejects.toMatchObject({
    code: expect.stringMatching(/EIO|EINVAL/),
  })
  await layer.unref(node)
  expect(Buffer.compare(host.contents('/image')?.bytes() ?? new Uint8Array(0), before)).toBe(0)
})

test('entries of the first-level table behind the disk stay when it grows', async () => {
  const { host, layer } = setup()
  // A table maps 2 MiB: the second entry is behind the end.
  const bytes = image({ size: 1 << 20, l1: [0, 2 * cluster], l2: [3 * cluster] })
  bytes.fill(0x44, 3 * cluster, 4 * cluster)
  host.put('/image', bytes)
  const node = await layer.open('/image', {}, { write: true })
  await truncateNode(node, 4 << 20, { ...growing, zero: false })
  expect((await read(node, 2 << 20, 1))[0]).toBe(0x44)
  await layer.unref(node)
})

test('the largest tables take little memory: parts of them are read', async () => {
  const { host, layer } = setup()
  const size = 64 << 20
  const bytes = new Uint8Array(64)
  bytes.set([0x51, 0x45, 0x44, 0])
  writeU32LE(bytes, 4, size)
  writeU32LE(bytes, 8, 16)
  writeU32LE(bytes, 12, 1)
  writeU64LE(bytes, 40, size)
  writeU64LE(bytes, 48, 2 ** 40)
  const contents = host.put('/image', bytes)
  contents.truncate(17 * size)
  const node = await layer.open('/image', {}, { write: true })
  await node.write(2 ** 39, 3, Uint8Array.of(1, 2, 3), 0, 0)
  expect([...(await read(node, 2 ** 39, 3))]).toEqual([1, 2, 3])
  expect(contents.allocated).toBeLessThan(128 << 20)
  await layer.unref(node)
})
