import { expect, test } from 'vitest'
import { allDrivers } from '../../../all-drivers.js'
import { type BlockNode, checkNode, createBlockLayer, createWithDriver } from '../../../graph/index.js'
import { createNodeHost } from '../../../platform/node/index.js'
import { MemoryHost } from '../../../testing/index.js'

const path = '/image.qcow2'

async function image(options: Record<string, string | number | boolean> = {}) {
  const host = new MemoryHost({ codecs: createNodeHost().codecs })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size: 262144, cluster_size: 1024, ...options })
  const open = (more: Record<string, string | boolean> = {}, write = true) =>
    layer.open(path, { driver: 'qcow2', ...more }, { write })
  const bytes = () => host.contents(path)?.bytes() ?? new Uint8Array(0)
  return { host, layer, open, bytes, warnings: host.warnings }
}

const fill = async (node: BlockNode, offset: number, value: number): Promise<void> => {
  await node.write(offset, 4096, new Uint8Array(4096).fill(value), 0, 0)
}

const isDirty = (bytes: Uint8Array) => ((bytes[79] ?? 0) & 1) !== 0

/** Refcount of a cluster as the file has it. */
function refcount(bytes: Uint8Array, cluster: number): number {
  return new DataView(bytes.buffer).getUint16(2 * 1024 + cluster * 2)
}

test('with lazy refcounts the image is dirty from the first allocation until it is closed', async () => {
  const { open, bytes, layer } = await image({ lazy_refcounts: true })
  const node = await open()
  expect(isDirty(bytes())).toBe(false)
  await fill(node, 0, 1)
  expect(isDirty(bytes())).toBe(true)
  await node.flush()
  const crashed = bytes()
  // The data can be found, but nothing counts it.
  const data = crashed.findIndex((byte, at) => at % 1024 === 0 && byte === 1)
  expect(data).toBeGreaterThan(0)
  expect(refcount(crashed, data / 1024)).toBe(0)
  await layer.unref(node)
  expect(isDirty(bytes())).toBe(false)
  expect(refcount(bytes(), data / 1024)).toBe(1)
})

test('a dirty image is repaired by the first who opens it for writing', async () => {
  const { open, bytes, layer, host, warnings } = await image({ lazy_refcounts: true })
  const node = await open()
  await fill(node, 0, 1)
  await node.flush()
  const crashed = bytes()
  await layer.unref(node)
  host.put(path, crashed)
  const reader = await open({}, false)
  expect((await checkNode(reader, { leaks: false, errors: false })).corruptions).toBeGreaterThan(0)
  await layer.unref(reader)
  expect(isDirty(bytes())).toBe(true)
  const writer = await open()
  expect(isDirty(bytes())).toBe(false)
  expect(warnings).toContain('Rebuilding refcount structure')
  await fill(writer, 8192, 2)
  const data = new Uint8Array(4096)
  await writer.read(0, 4096, data, 0, 0)
  expect(data).toEqual(new Uint8Array(4096).fill(1))
  await layer.unref(writer)
  const again = await open({}, false)
  expect((await checkNode(again, { leaks: false, errors: false })).messages).toEqual([])
  await layer.unref(again)
})

test('the option of an open wins over the image', async () => {
  const off = await image({ lazy_refcounts: true })
  const eager = await off.open({ 'lazy-refcounts': false })
  await fill(eager, 0, 1)
  await eager.flush()
  expect(isDirty(off.bytes())).toBe(false)
  await off.layer.unref(eager)
  const on = await image()
  const lazy = await on.open({ 'lazy-refcounts': true })
  await fill(lazy, 0, 1)
  expect(isDirty(on.bytes())).toBe(true)
  await lazy.state?.inactivate?.()
  expect(isDirty(on.bytes())).toBe(false)
  await on.layer.unref(lazy)
})

test('a write into metadata marks the image corrupt and is told to listeners', async () => {
  const { open, bytes, layer, host } = await image()
  const node = await open()
  await fill(node, 0, 1)
  await layer.unref(node)
  const broken = bytes()
  const view = new DataView(broken.buffer)
  const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00fffffffffffe00n)
  // The first guest cluster is said to stand on its own L2 table.
  view.setBigUint64(l2, (1n << 63n) | BigInt(l2))
  host.put(path, broken)
  const events: unknown[] = []
  layer.events.on((event) => events.push(event))
  const odd = await open({ 'node-name': 'odd' })
  await expect(fill(odd, 0, 2)).rejects.toMatchObject({ code: 'EIO' })
  expect(events).toEqual([
    {
      event: 'BLOCK_IMAGE_CORRUPTED',
      data: {
        device: '',
        'node-name': 'odd',
        msg: 'Preventing invalid write on metadata (overlaps with active L2 table)',
        offset: l2,
        size: 1024,
        fatal: true,
      },
    },
  ])
  await expect(fill(odd, 0, 2)).rejects.toMatchObject({ code: 'ENOMEDIUM' })
  await layer.unref(odd)
  expect((bytes()[79] ?? 0) & 2).toBe(2)
  await expect(open()).rejects.toMatchObject({ message: expect.stringContaining('Image is corrupt') })
  await layer.unref(await open({}, false))
})
