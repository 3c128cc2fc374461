import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { createBlockLayer } from '../../src/graph/index.js'
import type { MemoryHost } from '../../src/testing/index.js'
import { createImageAt, memoryHost } from './format-under-test.js'

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
