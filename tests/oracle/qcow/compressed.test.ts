import fs from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { commitImage, convertImage, createImage } from '../../../src/image/index.js'
import { ReqFlags } from '../../../src/io/index.js'
import { openImage } from '../../../src/library/index.js'
import { guestMap, random, Workshop } from '../image/qemu.js'

const shop = new Workshop()
afterAll(() => shop.clear())

/** Clusters that can be compressed and clusters that cannot. */
function contents(size: number, seed: number): Uint8Array {
  const below = random(seed)
  const data = new Uint8Array(size)
  for (let at = 0; at < size; at += 4096) {
    const kind = below(4)
    const end = Math.min(size, at + 4096)
    if (kind === 0) {
      for (let i = at; i < end; i++) {
        data[i] = below(256)
      }
    } else if (kind < 3) {
      data.fill(1 + below(255), at, end)
    }
  }
  return data
}

test('a compressed conversion is read by QEMU, and its images by us', async () => {
  const size = (1 << 20) + 512
  const data = contents(size, 5)
  const source = shop.path('source.raw')
  fs.writeFileSync(source, data)
  const ours = shop.path('ours.qcow')
  const spec = { filename: source, format: 'raw' }
  await convertImage(shop.layer, { sources: [spec], target: ours, format: 'qcow', compress: true })
  shop.img('compare', '-f', 'qcow', '-F', 'raw', ours, source)
  // QEMU 7.2 writes the whole image, and then fails without a word.
  const theirs = shop.path('theirs.qcow')
  expect(() => shop.img('convert', '-c', '-f', 'raw', '-O', 'qcow', source, theirs)).toThrow()
  const image = await openImage(shop.layer, theirs, { format: 'qcow', readOnly: true })
  expect(Buffer.compare(await image.read(0, size), data)).toBe(0)
  await image.close()
  expect(fs.statSync(ours).size).toBeLessThan(fs.statSync(theirs).size * 1.01)
  expect(await shop.map(ours, 'qcow')).toEqual(shop.json('map', '-f', 'qcow', ours))
})

test('the same input gives the same image, byte for byte, whichever cluster is compressed first', async () => {
  const source = shop.path('again.raw')
  fs.writeFileSync(source, contents((1 << 20) + 512, 7))
  const images: Buffer[] = []
  for (let i = 0; i < 12; i++) {
    const target = shop.path(`again-${i}.qcow`)
    const spec = { filename: source, format: 'raw' }
    await convertImage(shop.layer, { sources: [spec], target, format: 'qcow', compress: true })
    images.push(fs.readFileSync(target))
  }
  expect(images.filter((image) => Buffer.compare(image, images[0] as Buffer) !== 0)).toHaveLength(0)
})

test('compressed clusters are written to, and written compressed once more', async () => {
  const size = 1 << 20
  const data = contents(size, 6)
  const file = shop.path('changed.qcow')
  await createImage(shop.layer, { filename: file, format: 'qcow', size })
  const image = await shop.layer.open(file, { driver: 'qcow' }, { write: true })
  await image.write(0, size, data, 0, ReqFlags.writeCompressed)
  const below = random(8)
  for (let i = 0; i < 40; i++) {
    const at = below(size / 512) * 512
    const bytes = Math.min(size - at, 512 * (1 + below(20)))
    data.fill(below(256), at, at + bytes)
    await image.write(at, bytes, data.slice(at, at + bytes), 0, 0)
    if (i % 4 === 0) {
      const cluster = below(size / 4096) * 4096
      data.fill(below(256), cluster, cluster + 4096)
      const changed = data.slice(cluster, cluster + 4096)
      await image.write(cluster, 4096, changed, 0, ReqFlags.writeCompressed)
    }
  }
  const read = new Uint8Array(size)
  await image.read(0, size, read, 0, 0)
  expect(Buffer.compare(read, data)).toBe(0)
  await shop.layer.unref(image)
  fs.writeFileSync(shop.path('changed.raw'), data)
  shop.img('compare', '-f', 'qcow', '-F', 'raw', file, shop.path('changed.raw'))
})

test('commit empties the image and leaves what QEMU leaves', async () => {
  const make = (name: string) => {
    const base = shop.path(`${name}.base`)
    const top = shop.path(name)
    shop.img('create', '-q', '-f', 'qcow', base, '3M')
    shop.img('create', '-q', '-f', 'qcow', '-b', base, '-F', 'qcow', top)
    shop.io(top, 'qcow', ['write -P 1 1000 5000', 'write -c -P 2 1M 512', 'write -P 3 2500k 100k'])
    return { base, top }
  }
  const ours = make('ours')
  const theirs = make('other')
  await commitImage(shop.layer, { filename: ours.top, format: 'qcow' })
  shop.img('commit', '-q', '-f', 'qcow', theirs.top)
  shop.img('compare', '-f', 'qcow', '-F', 'qcow', ours.base, theirs.base)
  expect(fs.statSync(ours.top).size).toBe(fs.statSync(theirs.top).size)
  expect(guestMap(shop.json('map', '-f', 'qcow', ours.base))).toEqual(
    guestMap(shop.json('map', '-f', 'qcow', theirs.base)),
  )
})
