import { expect, test } from 'vitest'
import { truncateNode } from '../../src/graph/index.js'
import { CrashFiles } from '../../src/testing/index.js'
import {
  createImageAt,
  filesOf,
  hostWith,
  imagePath,
  layerOn,
  memoryHost,
  seeded,
} from './format-under-test.js'

const MiB = 1 << 20
const GiB = 1 << 30
const how = { exact: false, preallocation: 'off', zero: true } as const

/** Offsets that are written before, and what they hold. */
const places = [0, 3 * GiB + 512, 120 * GiB] as const

async function makeDisk() {
  const host = memoryHost()
  await createImageAt(host, imagePath, 'vhdx', { size: 127 * GiB, block_size: MiB, block_state_zero: false })
  return host
}

test('a table that outgrows its region moves, and a crash at any moment leaves the old disk or the new one', async () => {
  const files = filesOf(await makeDisk())
  const log = new CrashFiles(files)
  const layer = layerOn(hostWith(files, { log: (operation) => log.record(operation) }))
  const node = await layer.open(imagePath, { driver: 'vhdx' }, { write: true })
  for (const [index, at] of places.entries()) {
    await node.write(at, 512, new Uint8Array(512).fill(index + 1), 0, 0)
  }
  await node.flush()
  const flushed = log.length
  await truncateNode(node, 300 * GiB, how)
  await node.write(300 * GiB - 512, 512, new Uint8Array(512).fill(9), 0, 0)
  await layer.unref(node)
  const random = seeded(9)
  const seen = new Set<number>()
  let tried = 0
  for (const state of log.states({ random, samples: 2 })) {
    if (state.issued < flushed || random() > 20 / ((log.length - flushed) * 5)) {
      continue
    }
    const after = layerOn(hostWith(state.contents))
    const disk = await after.open(imagePath, { driver: 'vhdx' }, { write: true })
    seen.add(disk.length)
    for (const [index, at] of places.entries()) {
      const bytes = new Uint8Array(512)
      await disk.read(at, 512, bytes, 0, 0)
      expect(bytes, `${state.issued} operations`).toEqual(new Uint8Array(512).fill(index + 1))
    }
    await after.unref(disk)
    tried++
  }
  expect(tried).toBeGreaterThan(5)
  expect([...seen].sort()).toEqual([127 * GiB, 300 * GiB])
})

test('what stands behind the end of the disk in its last block is not shown', async () => {
  const host = memoryHost()
  await createImageAt(host, imagePath, 'vhdx', { size: 1536 * 1024, block_size: MiB })
  const layer = layerOn(host)
  let node = await layer.open(imagePath, { driver: 'vhdx' }, { write: true })
  await node.write(MiB, 512, new Uint8Array(512).fill(1), 0, 0)
  await layer.unref(node)
  const bytes = host.contents(imagePath)?.bytes() ?? new Uint8Array(0)
  host.put(
    imagePath,
    bytes.map((byte, at) => (at >= bytes.length - MiB / 2 ? 0xee : byte)),
  )
  node = await layer.open(imagePath, { driver: 'vhdx' }, { write: true })
  await truncateNode(node, 4 * MiB, how)
  const tail = new Uint8Array(2 * MiB)
  await node.read(1536 * 1024, tail.length, tail, 0, 0)
  expect(tail.every((byte) => byte === 0)).toBe(true)
  await layer.unref(node)
})

test('shrinking, preallocation and more than 64 TiB are refused', async () => {
  const host = memoryHost()
  await createImageAt(host, imagePath, 'vhdx', { size: 4 * MiB })
  const layer = layerOn(host)
  const node = await layer.open(imagePath, { driver: 'vhdx' }, { write: true })
  await expect(truncateNode(node, MiB, how)).rejects.toThrow('Shrinking of VHDX images is not supported')
  await expect(truncateNode(node, 5 * MiB, { ...how, preallocation: 'full' })).rejects.toThrow(
    'preallocation',
  )
  await expect(truncateNode(node, 65 * 1024 * GiB, how)).rejects.toThrow('max of 64TB')
  await layer.unref(node)
})
