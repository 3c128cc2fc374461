import { expect, test } from 'vitest'
import { allDrivers } from '../../../all-drivers.js'
import {
  applySnapshot,
  type BlockNode,
  checkNode,
  createBlockLayer,
  createSnapshot,
  createWithDriver,
  listSnapshots,
  loadSnapshot,
  loadSnapshotByIdOrName,
  removeSnapshot,
  truncateNode,
} from '../../../graph/index.js'
import { createNodeHost } from '../../../platform/node/index.js'
import { MemoryHost } from '../../../testing/index.js'

const path = '/image.qcow2'
const kib = 1024

function memory() {
  const host = new MemoryHost({ codecs: createNodeHost().codecs })
  return { host, layer: createBlockLayer({ host, drivers: allDrivers }) }
}

async function image(options: Record<string, string | number | boolean> = {}) {
  const { host, layer } = memory()
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size: 64 * kib, cluster_size: 1024, ...options })
  const open = (write = true) => layer.open(path, { driver: 'qcow2' }, { write })
  return { host, layer, open, node: await open() }
}

function snapshot(name: string, more: { id?: string; vmStateSize?: number; icount?: bigint } = {}) {
  const { id = '', vmStateSize = 0 } = more
  const icount = more.icount === undefined ? {} : { icount: more.icount }
  return { id, name, dateSeconds: 5, dateNanoseconds: 6, vmClockNanoseconds: 7n, vmStateSize, ...icount }
}

async function fill(node: BlockNode, offset: number, bytes: number, value: number): Promise<void> {
  await node.write(offset, bytes, new Uint8Array(bytes).fill(value), 0, 0)
}

async function read(node: BlockNode, offset: number, bytes: number): Promise<Uint8Array> {
  const data = new Uint8Array(bytes)
  await node.read(offset, bytes, data, 0, 0)
  return data
}

async function isClean(node: BlockNode): Promise<void> {
  const check = await checkNode(node, { leaks: false, errors: false })
  expect(check.messages).toEqual([])
}

test('what was written later is gone after going back, and back again after going forth', async () => {
  const { layer, node } = await image()
  await fill(node, 0, 4 * kib, 1)
  await createSnapshot(node, snapshot('one'))
  await fill(node, 1 * kib, 2 * kib, 2)
  await createSnapshot(node, snapshot('two'))
  await applySnapshot(node, 'one')
  expect(await read(node, 0, 4 * kib)).toEqual(new Uint8Array(4 * kib).fill(1))
  await fill(node, 0, kib, 3)
  await applySnapshot(node, '2')
  expect((await read(node, 0, 4 * kib)).filter((_, at) => at % 1024 === 0)).toEqual(Uint8Array.of(1, 2, 2, 1))
  await isClean(node)
  await layer.unref(node)
})

test('names and ids: both to remove, the id goes first to apply, the next number is free', async () => {
  const { layer, node } = await image()
  await createSnapshot(node, snapshot('2'))
  await createSnapshot(node, snapshot('x'))
  await createSnapshot(node, snapshot('y', { id: '7b' }))
  await createSnapshot(node, snapshot('z'))
  expect(listSnapshots(node)?.map(({ id }) => id)).toEqual(['1', '2', '7b', '8'])
  await expect(removeSnapshot(node, '1', 'x')).rejects.toMatchObject({
    code: 'ENOENT',
    message: "Can't find the snapshot",
  })
  await expect(createSnapshot(node, snapshot('z', { id: '8' }))).rejects.toMatchObject({ code: 'EEXIST' })
  await removeSnapshot(node, '1', '2')
  expect(listSnapshots(node)?.map(({ name }) => name)).toEqual(['x', 'y', 'z'])
  await isClean(node)
  await layer.unref(node)
})

test('VM state is kept by the snapshot and taken from the guest', async () => {
  const { layer, node, open } = await image()
  const state = new Uint8Array(5000).map((_, i) => i % 251)
  await node.state?.vmState?.write(100, state.length, state, 0)
  await createSnapshot(node, snapshot('vm', { vmStateSize: 5100, icount: 77n }))
  const area = async (from: BlockNode) => {
    const data = new Uint8Array(5000)
    await from.state?.vmState?.read(100, data.length, data, 0)
    return data
  }
  expect(await area(node)).toEqual(new Uint8Array(5000))
  await applySnapshot(node, 'vm')
  expect(await area(node)).toEqual(state)
  // A part of a cluster that the snapshot has, too.
  await node.state?.vmState?.write(0, 10, new Uint8Array(10).fill(9), 0)
  expect(await area(node)).toEqual(state)
  await isClean(node)
  await layer.unref(node)
  const again = await open()
  expect(listSnapshots(again)).toMatchObject([
    { id: '1', name: 'vm', vmStateSize: 5100, icount: 77n, vmClockNanoseconds: 7n, dateNanoseconds: 6 },
  ])
  await layer.unref(again)
})

test('a snapshot of another size brings its size with it', async () => {
  const { layer, node } = await image()
  await fill(node, 60 * kib, kib, 1)
  await createSnapshot(node, snapshot('small'))
  const how = { exact: true, preallocation: 'off', zero: false } as const
  await truncateNode(node, 512 * kib, how)
  await fill(node, 500 * kib, kib, 2)
  await createSnapshot(node, snapshot('large'))
  await truncateNode(node, 32 * kib, how)
  await applySnapshot(node, 'large')
  expect(node.length).toBe(512 * kib)
  expect((await read(node, 500 * kib, 1))[0]).toBe(2)
  await applySnapshot(node, 'small')
  expect(node.length).toBe(64 * kib)
  expect((await read(node, 60 * kib, 1))[0]).toBe(1)
  await isClean(node)
  await layer.unref(node)
})

test('a loaded snapshot is what is read until the image is closed', async () => {
  const { layer, node, open } = await image()
  await fill(node, 0, 4 * kib, 1)
  await createSnapshot(node, snapshot('one'))
  await fill(node, 0, 2 * kib, 2)
  await expect(loadSnapshot(node, '1', undefined)).rejects.toMatchObject({
    message: 'Device is not readonly',
  })
  await layer.unref(node)
  const reader = await open(false)
  expect((await read(reader, 0, 1))[0]).toBe(2)
  await expect(loadSnapshotByIdOrName(reader, 'nope')).rejects.toMatchObject({
    message: "Can't find snapshot",
  })
  await loadSnapshotByIdOrName(reader, 'one')
  expect((await read(reader, 0, 1))[0]).toBe(1)
  await layer.unref(reader)
  const again = await open(false)
  expect((await read(again, 0, 1))[0]).toBe(2)
  await layer.unref(again)
})

test('a refcount that cannot grow refuses the snapshot and leaves everything as it was', async () => {
  const { layer, node, host } = await image({ refcount_bits: 1 })
  await fill(node, 0, 4 * kib, 1)
  await node.flush()
  const before = host.contents(path)?.bytes()
  await expect(createSnapshot(node, snapshot('one'))).rejects.toMatchObject({ code: 'EINVAL' })
  expect(listSnapshots(node)).toEqual([])
  await isClean(node)
  await fill(node, 0, kib, 2)
  await layer.unref(node)
  expect(before?.length).toBeLessThanOrEqual(host.contents(path)?.bytes().length ?? 0)
})

test('extra data of later versions survives, and so do names that are not UTF-8', async () => {
  const { layer, node, host, open } = await image()
  await createSnapshot(node, snapshot('one'))
  await createSnapshot(node, snapshot('two'))
  await layer.unref(node)
  const bytes = host.contents(path)?.bytes() ?? new Uint8Array(0)
  const view = new DataView(bytes.buffer)
  const table = Number(view.getBigUint64(64))
  // The first entry: 16 more bytes of extra data, then id and name; the second entry is dropped.
  view.setUint32(60, 1)
  view.setUint32(table + 36, 40)
  bytes.fill(0xee, table + 64, table + 80)
  bytes.set([0x31, 0xff, 0xfe, 0x41], table + 80)
  host.put(path, bytes)
  const again = await open()
  await createSnapshot(again, snapshot('three'))
  await layer.unref(again)
  const after = host.contents(path)?.bytes() ?? new Uint8Array(0)
  const moved = Number(new DataView(after.buffer).getBigUint64(64))
  expect(after.slice(moved + 64, moved + 84)).toEqual(
    Uint8Array.of(...new Array(16).fill(0xee), 0x31, 0xff, 0xfe, 0x41),
  )
})

test('an L1 table in an impossible place is refused', async () => {
  const { layer, node, host, open } = await image()
  await createSnapshot(node, snapshot('one'))
  await layer.unref(node)
  const bytes = host.contents(path)?.bytes() ?? new Uint8Array(0)
  const view = new DataView(bytes.buffer)
  const table = Number(view.getBigUint64(64))
  const l1 = view.getBigUint64(table)
  view.setBigUint64(table, l1 + 512n)
  host.put(path, bytes)
  const odd = await open()
  await expect(applySnapshot(odd, 'one')).rejects.toMatchObject({ code: 'EINVAL' })
  await expect(removeSnapshot(odd, '1', 'one')).rejects.toMatchObject({
    message: 'Snapshot L1 table offset invalid',
  })
  await layer.unref(odd)
  view.setBigUint64(table, l1)
  view.setUint32(table + 8, 0xffffffff)
  host.put(path, bytes)
  const long = await open()
  await expect(removeSnapshot(long, '1', 'one')).rejects.toMatchObject({
    message: 'Snapshot L1 table too large',
  })
  await layer.unref(long)
})
