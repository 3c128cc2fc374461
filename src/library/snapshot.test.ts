import { expect, test } from 'vitest'
import { allDrivers } from '../all-drivers.js'
import { createBlockLayer, createWithDriver } from '../graph/index.js'
import { createNodeHost } from '../platform/node/index.js'
import { MemoryHost } from '../testing/index.js'
import { openImage } from './image.js'

async function image() {
  const layer = createBlockLayer({
    host: new MemoryHost({ codecs: createNodeHost().codecs }),
    drivers: allDrivers,
  })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, '/q', { size: 65536 })
  return { layer, open: (readOnly: boolean) => openImage(layer, '/q', { readOnly }) }
}

test('snapshots of an image: made, shown, applied, removed', async () => {
  const { open } = await image()
  const writer = await open(false)
  await writer.write(0, new Uint8Array(512).fill(1))
  await writer.createSnapshot({ name: 'one', date: 1_700_000_000_123 })
  await writer.write(0, new Uint8Array(512).fill(2))
  expect(writer.snapshots()).toMatchObject([
    { id: '1', name: 'one', dateSeconds: 1_700_000_000, dateNanoseconds: 123_000_000, icount: 0n },
  ])
  await writer.close()
  const reader = await open(true)
  await expect(reader.showSnapshot('nope')).rejects.toThrow("Failed to load snapshot: Can't find snapshot")
  await expect(reader.createSnapshot({ name: 'two' })).rejects.toThrow('is read-only')
  await reader.showSnapshot({ name: 'one' })
  expect((await reader.read(0, 1))[0]).toBe(1)
  await reader.close()
  const again = await open(false)
  await again.applySnapshot('1')
  expect((await again.read(0, 1))[0]).toBe(1)
  expect([await again.removeSnapshot('one'), await again.removeSnapshot('one')]).toEqual([true, false])
  expect(await again.check()).toMatchObject({ exitCode: 0 })
  await again.close()
})

test('a name is cut to 255 bytes, between characters', async () => {
  const { open } = await image()
  const writer = await open(false)
  await writer.createSnapshot({ name: `${'x'.repeat(254)}ä` })
  expect(writer.snapshots()[0]?.name).toBe('x'.repeat(254))
  await writer.close()
})

test('amend changes the image in place', async () => {
  const { open } = await image()
  const writer = await open(false)
  await writer.amend({ options: { compat: '0.10', size: 131072 } })
  expect(writer.size).toBe(131072)
  await expect(writer.amend({ options: 'cluster_size=4k' })).rejects.toMatchObject({
    message: "Invalid parameter 'cluster_size'",
    hint: 'This option is only supported for image creation',
  })
  await writer.close()
})
