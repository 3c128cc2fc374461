import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { createBlockLayer, truncateNode } from '../../src/graph/index.js'
import { createImage } from '../../src/image/index.js'
import type { MemoryHost } from '../../src/testing/index.js'
import { createImageAt, layerOn, memoryHost } from './format-under-test.js'

async function formatOf(host: MemoryHost, path: string, probeTails: boolean): Promise<string | undefined> {
  const layer = createBlockLayer({ host, drivers: allDrivers, probeTails })
  const node = await layer.open(path)
  const name = node.driver?.name
  await layer.unref(node)
  return name
}

async function fixedDisk(path: string): Promise<MemoryHost> {
  const host = memoryHost()
  await createImageAt(host, path, 'vpc', { size: 1 << 20, subformat: 'fixed', force_size: true })
  return host
}

test('a fixed VHD is recognised by its footer where that is asked for and its name says so', async () => {
  const host = await fixedDisk('/disk.VHD')
  expect(await formatOf(host, '/disk.VHD', true)).toBe('vpc')
  expect(await formatOf(host, '/disk.VHD', false)).toBe('raw')
  host.put('/disk.raw', host.contents('/disk.VHD')?.bytes() ?? new Uint8Array(0))
  expect(await formatOf(host, '/disk.raw', true)).toBe('raw')
})

test.each([
  ['a wrong checksum', (bytes: Uint8Array) => bytes.with(bytes.length - 448, 1)],
  ['another type', (bytes: Uint8Array) => bytes.with(bytes.length - 449, 3)],
  ['a file that is cut in front', (bytes: Uint8Array) => bytes.slice(4096)],
  ['no footer', (bytes: Uint8Array) => bytes.slice(0, -512)],
])('%s makes it raw', async (_title, change) => {
  const host = await fixedDisk('/disk.vhd')
  host.put('/disk.vhd', change(host.contents('/disk.vhd')?.bytes() ?? new Uint8Array(0)))
  expect(await formatOf(host, '/disk.vhd', true)).toBe('raw')
})

test('the preset for Azure makes fixed disks of whole MiB', async () => {
  const host = memoryHost()
  const make = (options: string) =>
    createImage(layerOn(host), { filename: '/azure.vhd', format: 'vpc', size: 1_500_000, options })
  await make('preset=azure')
  expect(host.contents('/azure.vhd')?.bytes().length).toBe((2 << 20) + 512)
  const layer = layerOn(host)
  const node = await layer.open('/azure.vhd', { driver: 'vpc' })
  expect(node.length).toBe(2 << 20)
  await layer.unref(node)
  await expect(make('preset=azure,subformat=dynamic')).rejects.toThrow('needs subformat=fixed')
  await expect(make('preset=other')).rejects.toThrow("does not accept value 'other'")
})

test('what stands behind the end of a dynamic disk in its last block is not shown when it grows', async () => {
  const host = memoryHost()
  await createImageAt(host, '/d.vhd', 'vpc', { size: 1 << 20, force_size: true })
  const layer = layerOn(host)
  let node = await layer.open('/d.vhd', { driver: 'vpc' }, { write: true })
  await node.write(0, 512, new Uint8Array(512).fill(1), 0, 0)
  await layer.unref(node)
  const bytes = host.contents('/d.vhd')?.bytes() ?? new Uint8Array(0)
  host.put('/d.vhd', new Uint8Array(bytes).fill(0xee, bytes.length - 512 - (1 << 20), bytes.length - 512))
  node = await layer.open('/d.vhd', { driver: 'vpc' }, { write: true })
  await truncateNode(node, 4 << 20, { exact: false, preallocation: 'off', zero: false })
  const tail = new Uint8Array(3 << 20)
  await node.read(1 << 20, tail.length, tail, 0, 0)
  expect(tail.every((byte) => byte === 0)).toBe(true)
  await layer.unref(node)
})
