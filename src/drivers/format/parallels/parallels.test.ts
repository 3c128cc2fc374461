import { expect, test } from 'vitest'
import { readU32LE, readU64LE, writeU32LE, writeU64LE } from '../../../bytes/index.js'
import {
  Backend,
  type BlockLayer,
  type CreateValues,
  checkNode,
  createBlockLayer,
  createWithDriver,
  truncateNode,
} from '../../../graph/index.js'
import type { HostCiphers } from '../../../host/index.js'
import { createNodeHost } from '../../../platform/node/index.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { parallels } from './index.js'
import { at, inUseMagic } from './layout.js'

const cluster = 4096
const ciphers = createNodeHost().ciphers as HostCiphers

function hostWith(bytes?: Uint8Array): { host: MemoryHost; layer: BlockLayer; warnings: string[] } {
  const warnings: string[] = []
  const host = new MemoryHost({ ciphers })
  host.warn = (line) => warnings.push(line)
  if (bytes !== undefined) {
    host.put('/a', bytes)
  }
  return { host, layer: createBlockLayer({ host, drivers: [parallels, file] }), warnings }
}

async function created(size: number, options: CreateValues = {}) {
  const made = hostWith()
  await createWithDriver(made.layer, parallels, '/a', { size, cluster_size: cluster, ...options })
  return made
}

function open(layer: BlockLayer, write = true, check = false): Promise<Backend> {
  const options = { driver: 'parallels', 'prealloc-size': 65536 }
  return Backend.open(layer, '/a', options, { write, resize: write, check })
}

function contents(host: MemoryHost): Uint8Array {
  return host.contents('/a')?.bytes() as Uint8Array
}

async function fill(image: Backend, index: number, value: number): Promise<void> {
  await image.write(index * cluster, cluster, new Uint8Array(cluster).fill(value))
}

async function firstBytes(image: Backend, ...indices: number[]): Promise<(number | undefined)[]> {
  const buffer = new Uint8Array(512)
  const seen: (number | undefined)[] = []
  for (const index of indices) {
    await image.read(index * cluster, 512, buffer)
    seen.push(buffer[0])
  }
  return seen
}

function put(bytes: Uint8Array, fields: readonly (readonly [number, number])[]): void {
  for (const [offset, value] of fields) {
    writeU32LE(bytes, offset, value)
  }
}

/** An image of the second kind, five clusters long, with clusters 1 and 3 at 2 and 1, made byte by byte. */
function golden(extraClusters = 0): Uint8Array {
  const bytes = new Uint8Array((3 + extraClusters) * cluster)
  bytes.set(new TextEncoder().encode('WithouFreSpacExt'))
  put(bytes, [
    [16, 2],
    [20, 16],
    [28, cluster / 512],
    [32, 5],
    [36, (5 * cluster) / 512],
    [48, cluster / 512],
    [64 + 4, 2],
    [64 + 12, 1],
  ])
  bytes.fill(0x33, cluster, 2 * cluster)
  bytes.fill(0x11, 2 * cluster, 3 * cluster)
  return bytes
}

test('golden: an image made byte by byte', async () => {
  const { host, layer } = hostWith(golden())
  const image = await open(layer)
  expect(image.length).toBe(5 * cluster)
  expect(await firstBytes(image, 0, 1, 2, 3, 4)).toEqual([0, 0x11, 0, 0x33, 0])
  expect(readU32LE(contents(host), at.inUse)).toBe(0)
  await fill(image, 4, 0x44)
  expect(readU32LE(contents(host), at.inUse)).toBe(inUseMagic)
  expect(contents(host).length).toBe(4 * cluster + 65536)
  await image.close()
  const expected = golden(1)
  writeU32LE(expected, 64 + 16, 3)
  expected.fill(0x44, 3 * cluster)
  expect(contents(host)).toEqual(expected)
})

test('golden: the first kind counts sectors', async () => {
  const bytes = new Uint8Array(512 + 2 * 1536)
  bytes.set(new TextEncoder().encode('WithoutFreeSpace'))
  put(bytes, [
    [16, 2],
    [28, 3],
    [32, 3],
    [36, 8],
    [40, 99],
    [64, 4],
    [72, 1],
  ])
  bytes.fill(3, 512, 512 + 1536).fill(1, 512 + 1536)
  const { host, layer } = hostWith(bytes)
  const image = await open(layer)
  expect(image.length).toBe(4096)
  const seen = new Uint8Array(4096)
  await image.read(0, 4096, seen)
  expect([seen[0], seen[1535], seen[1536], seen[3071], seen[3072], seen[4095]]).toEqual([1, 1, 0, 0, 3, 3])
  await image.write(2048, 512, new Uint8Array(512).fill(2))
  await image.close()
  expect([readU32LE(contents(host), 68), contents(host).length]).toEqual([7, 512 + 3 * 1536])
})

test('an image that was not closed is read, but not written to before it is repaired', async () => {
  const bytes = golden()
  writeU32LE(bytes, at.inUse, inUseMagic)
  // Past the end, and the place of another one.
  writeU32LE(bytes, 64, 100)
  writeU32LE(bytes, 64 + 8, 2)
  const { host, layer } = hostWith(bytes)
  const readOnly = await open(layer, false)
  expect(await firstBytes(readOnly, 1)).toEqual([0x11])
  await readOnly.close()
  await expect(open(layer)).rejects.toMatchObject({
    code: 'EACCES',
    message: 'parallels: Image was not closed correctly; cannot be opened read/write',
  })
  const checked = await open(layer, true, true)
  const found = await checkNode(checked.node, { leaks: false, errors: false })
  expect(found.messages).toEqual([
    'ERROR image was not closed correctly',
    'ERROR cluster 0 is outside image',
    'ERROR duplicate offset in BAT entry 2',
  ])
  expect(found.corruptions).toBe(3)
  const fixed = await checkNode(checked.node, { leaks: false, errors: true })
  expect([fixed.corruptions, fixed.corruptionsFixed, fixed.leaks]).toEqual([0, 3, 0])
  await checked.close()
  const image = await open(layer)
  expect(await firstBytes(image, 0, 1, 2, 3)).toEqual([0, 0x11, 0x11, 0x33])
  const again = await checkNode(image.node, { leaks: false, errors: false })
  expect([again.corruptions, again.leaks]).toEqual([0, 0])
  await fill(image, 1, 7)
  expect(await firstBytes(image, 1, 2)).toEqual([7, 0x11])
  await image.close()
  expect(contents(host).length).toBe(4 * cluster)
})

test('space behind the last cluster is a leak, and is cut off', async () => {
  const { host, layer } = hostWith(golden(2))
  const image = await open(layer, true, true)
  const found = await checkNode(image.node, { leaks: false, errors: false })
  expect([found.leaks, found.messages]).toEqual([2, ['ERROR space leaked at the end of the image 8192']])
  expect((await checkNode(image.node, { leaks: true, errors: false })).leaksFixed).toBe(2)
  await image.close()
  expect(contents(host).length).toBe(3 * cluster)
})

test('a long table is no leak', async () => {
  const { layer } = await created(50 << 20)
  const image = await open(layer, false)
  expect((await checkNode(image.node, { leaks: false, errors: false })).leaks).toBe(0)
  await image.close()
})

test('a table without room takes the place of the first clusters', async () => {
  const { host, layer } = await created(8 * cluster)
  const image = await open(layer)
  await fill(image, 3, 3)
  await fill(image, 1, 1)
  await fill(image, 7, 7)
  await truncateNode(image.node, 3000 * cluster, { exact: true, preallocation: 'off', zero: false })
  await fill(image, 2999, 9)
  expect(await firstBytes(image, 1, 3, 7, 8, 2998, 2999)).toEqual([1, 3, 7, 0, 0, 9])
  await image.close()
  const bytes = contents(host)
  expect([readU32LE(bytes, at.entries), readU32LE(bytes, at.dataOffset) * 512]).toEqual([3000, 3 * cluster])
  expect(readU64LE(bytes, at.sectors) * 512).toBe(3000 * cluster)
  const closed = await open(layer, false)
  expect(await firstBytes(closed, 1, 3, 7, 8, 2998, 2999)).toEqual([1, 3, 7, 0, 0, 9])
  const check = await checkNode(closed.node, { leaks: false, errors: false })
  expect([check.corruptions, check.leaks, check.allocatedClusters]).toEqual([0, 0, 4])
  await closed.close()
})

/** {@link golden} with an extension at cluster 3 that holds one bitmap, whose bits are cluster 4. */
function withBitmap(
  change: (extension: Uint8Array, feature: Uint8Array) => void = () => undefined,
): Uint8Array {
  const bytes = golden(2)
  writeU64LE(bytes, at.extOffset, (3 * cluster) / 512)
  const extension = bytes.subarray(3 * cluster, 4 * cluster)
  put(extension, [
    [0, 0x23dcea87],
    [4, 0xab234cef],
  ])
  const feature = extension.subarray(24)
  put(feature, [
    [0, 0x252cb34a],
    [4, 0x20385fae],
    [16, 40],
    [24, (5 * cluster) / 512],
    [48, 1],
    [52, 1],
    [56, (4 * cluster) / 512],
  ])
  for (let i = 0; i < 16; i++) {
    feature[32 + i] = i * 17
  }
  // Sectors 1 and 8.
  bytes.set([2, 1], 4 * cluster)
  change(extension, feature)
  extension.set(ciphers.digest('md5', extension.subarray(24)), 8)
  return bytes
}

test('bitmaps of a format extension come up on the node, for reading', async () => {
  const { host, layer } = hostWith(withBitmap())
  const image = await open(layer, false)
  const bitmap = image.node.dirtyBitmaps.find('00112233-4455-6677-8899-aabbccddeeff')
  expect(bitmap?.info()).toMatchObject({ granularity: 512, count: 1024, busy: false })
  expect([bitmap?.bits.get(512), bitmap?.bits.get(1024), bitmap?.bits.get(8 * 512)]).toEqual([
    true,
    false,
    true,
  ])
  expect(bitmap?.readonly).toBe(true)
  // What belongs to the extension is no leak.
  expect((await checkNode(image.node, { leaks: false, errors: false })).leaks).toBe(0)
  await image.close()
  expect(contents(host)).toEqual(withBitmap())
})

test('the first write takes away bitmaps that would be wrong', async () => {
  const { host, layer, warnings } = hostWith(withBitmap())
  const idle = await open(layer)
  await idle.close()
  expect(contents(host)).toEqual(withBitmap())
  const image = await open(layer)
  expect(warnings).toContain('warning: Format Extension ignored in RW mode')
  await fill(image, 0, 5)
  await image.close()
  expect(readU64LE(contents(host), at.extOffset)).toBe(0)
  const after = await open(layer, false)
  expect(await firstBytes(after, 0, 1)).toEqual([5, 0x11])
  await after.close()
})

test.each<[text: string, change: (extension: Uint8Array, feature: Uint8Array) => void]>([
  [
    'Wrong parallels Format Extension magic: 0x1, expected: 0xab234cef23dcea87',
    (e) => e.fill(0, 1, 8).set([1]),
  ],
  ['Unknown feature: 0x20385fae00000007', (_, f) => put(f, [[0, 7]])],
  ['Flags for extension feature are unsupported', (_, f) => put(f, [[8, 1]])],
  ['Feature data_size exceedes Format Extension cluster', (_, f) => put(f, [[16, 5000]])],
  [
    'Too small Bitmap Feature area in Parallels Format Extension: 8 bytes, expected at least 32 bytes',
    (_, f) => put(f, [[16, 8]]),
  ],
  ['Bitmap size (in sectors) 1 differs from disk size in sectors 40', (_, f) => put(f, [[24, 1]])],
  ['Bitmaps feature corrupted: l1 table exceeds extension data_size', (_, f) => put(f, [[52, 2]])],
  ['Invalid bitmap granularity 1536', (_, f) => put(f, [[48, 3]])],
  [
    'Bitmap table size 0 does not correspond to bitmap size and cluster size. Expected 1',
    (_, f) => put(f, [[52, 0]]),
  ],
])('refused: %s', async (message, change) => {
  const { layer } = hostWith(withBitmap(change))
  await expect(open(layer, false)).rejects.toMatchObject({ message })
  expect([...layer.nodes]).toEqual([])
})

test('a wrong checksum of the extension is refused', async () => {
  const bytes = withBitmap()
  bytes[4 * cluster - 1] = 1
  const { layer } = hostWith(bytes)
  await expect(open(layer, false)).rejects.toMatchObject({
    message: 'Wrong checksum in Format Extension header. Format extension is corrupted.',
  })
})
