import { expect, test } from 'vitest'
import { createBlockLayer, createWithDriver } from '../../../graph/index.js'
import { NodeCodecs } from '../../../platform/node/codecs.js'
import { MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { checkBytes } from './image-fixture.js'
import { qcow2 } from './index.js'

const cluster = 16384
const clusters = 8

/** Host offsets (0: none) and whether they read as zeroes, by the status of each cluster. */
async function afterDiscard(options: Record<string, string>, features: Record<string, boolean | string>) {
  const host = new MemoryHost({ codecs: new NodeCodecs() })
  const layer = createBlockLayer({ host, drivers: [qcow2, file] })
  const size = clusters * cluster
  await createWithDriver(layer, qcow2, '/image', { size, cluster_size: cluster, ...features })
  const node = await layer.open('/image', { driver: 'qcow2', discard: 'unmap', ...options }, { write: true })
  const data = new Uint8Array(size).fill(5)
  await node.write(0, size, data, 0, 0)
  await node.flush()
  const length = host.contents('/image')?.bytes().length ?? 0
  await node.discard(0, 2 * cluster)
  await node.writeZeroes(2 * cluster, cluster, 4)
  await node.write(3 * cluster, cluster, data, 0, 0)
  await node.discard(4 * cluster, cluster)
  await node.write(4 * cluster, 512, data, 0, 0)
  const into = new Uint8Array(size)
  await node.read(0, size, into, 0, 0)
  const values = Array.from({ length: clusters }, (_, i) => [into[i * cluster], into[i * cluster + 512]])
  await layer.unref(node)
  const bytes = host.contents('/image')?.bytes() ?? new Uint8Array(0)
  return { values, bytes, grown: bytes.length - length, check: checkBytes(bytes) }
}

const expected = [
  [0, 0],
  [0, 0],
  [0, 0],
  [5, 5],
  [5, 0],
  [5, 5],
  [5, 5],
  [5, 5],
]

/** References that the image's refcounts count, guest clusters among them. */
function mapped(bytes: Uint8Array, entryBytes: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  const l1 = Number(view.getBigUint64(40))
  const l2 = Number(view.getBigUint64(l1) & 0xfffffffffffe00n)
  let count = 0
  for (let i = 0; i < clusters; i++) {
    count += (view.getBigUint64(l2 + i * entryBytes) & 0xfffffffffffe00n) === 0n ? 0 : 1
  }
  return count
}

test.each([
  { name: 'plain L2 entries', features: {}, entryBytes: 8 },
  { name: 'extended L2 entries', features: { extended_l2: true }, entryBytes: 16 },
])('discarded clusters keep their places: $name', async ({ features, entryBytes }) => {
  const kept = await afterDiscard({ 'discard-no-unref': 'on' }, features)
  expect(kept.values).toEqual(expected)
  expect(kept.check).toEqual({ corrupt: [], leaked: [] })
  expect(mapped(kept.bytes, entryBytes)).toBe(clusters)
  expect(kept.grown).toBe(0)
  const freed = await afterDiscard({}, features)
  expect(freed.values).toEqual(expected)
  expect(freed.check).toEqual({ corrupt: [], leaked: [] })
  expect(mapped(freed.bytes, entryBytes)).toBe(clusters - 3)
})

test('an image of version 2 has no way to say so', async () => {
  await expect(afterDiscard({ 'discard-no-unref': 'on' }, { compat: '0.10' })).rejects.toMatchObject({
    code: 'EINVAL',
    message: 'discard-no-unref is only supported since qcow2 version 3',
  })
})
