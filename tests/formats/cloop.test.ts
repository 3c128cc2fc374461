import { expect, test } from 'vitest'
import { buildCloop } from './built/cloop.js'
import { sampleDisk } from './built/disk.js'
import { formatConformance } from './conformance.js'
import { imagePath, layerOn, memoryHost } from './format-under-test.js'
import { readAll } from './guest.js'

const disk = sampleDisk(12 * 16384)

formatConformance({
  format: 'cloop',
  writable: false,
  build: (host) => host.put(imagePath, buildCloop(disk)),
  built: disk,
  metadata: [
    [128, 136],
    [136, 240],
    [240, 2048],
  ],
})

test('cloop blocks too large to be decoded at once are decoded piece by piece', async () => {
  const large = sampleDisk(10 << 20)
  const image = buildCloop(large, 5 << 20)
  const host = memoryHost()
  host.put(imagePath, image)
  const layer = layerOn(host)
  const node = await layer.open(imagePath, { driver: 'cloop' })
  expect(Buffer.compare(await readAll(node), large)).toBe(0)
  await layer.unref(node)
  // The last block is cut off, the one before has a wrong checksum.
  const second = Number(Buffer.from(image).readBigUInt64BE(144))
  const broken = image.subarray(0, image.length - 100)
  broken[second - 1] = (broken[second - 1] as number) ^ 1
  host.put(imagePath, broken)
  const node2 = await layer.open(imagePath, { driver: 'cloop' })
  const buffer = new Uint8Array(512)
  for (const at of [0, 6 << 20]) {
    await expect(node2.read(at, 512, buffer, 0, 0)).rejects.toMatchObject({ code: 'EIO' })
  }
  await layer.unref(node2)
  expect([...layer.nodes]).toEqual([])
})
