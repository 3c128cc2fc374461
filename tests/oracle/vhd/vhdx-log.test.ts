import fs from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { allDrivers } from '../../../src/all-drivers.js'
import { createBlockLayer } from '../../../src/graph/index.js'
import { openImage } from '../../../src/library/index.js'
import { MemoryHost } from '../../../src/testing/index.js'
import { Workshop } from '../image/qemu.js'

const shop = new Workshop()
afterAll(() => shop.clear())

/** An image as it stands after a flush, before it is closed: its log has an entry, its table is as before. */
async function dirtyImage(): Promise<Uint8Array> {
  shop.img('create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', 'd.vhdx', '4M')
  const host = new MemoryHost()
  const contents = host.put('/d.vhdx', fs.readFileSync(shop.path('d.vhdx')))
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const image = await openImage(layer, '/d.vhdx', { readOnly: false, format: 'vhdx' })
  await image.write(1 << 20, new Uint8Array(65536).fill(7))
  await image.flush()
  const bytes = Uint8Array.from(contents.bytes())
  await image.close()
  await layer.closeAll()
  // As if the table had not been written any more.
  bytes.set(fs.readFileSync(shop.path('d.vhdx')).subarray(0x200000, 0x201000), 0x200000)
  return bytes
}

test('what we log is replayed by QEMU, and by us in memory and in the file', async () => {
  const bytes = await dirtyImage()
  for (const name of ['theirs.vhdx', 'ours.vhdx']) {
    fs.writeFileSync(shop.path(name), bytes)
  }
  const refused = shop.try('info', 'theirs.vhdx')
  expect([refused.status, refused.stderr.includes('contains a log that needs to be replayed')]).toEqual([
    1,
    true,
  ])

  const expected = new Uint8Array(65536).fill(7)
  const readOnly = await openImage(shop.layer, shop.path('ours.vhdx'), { format: 'vhdx' })
  expect(await readOnly.read(1 << 20, 65536)).toEqual(expected)
  await readOnly.close()
  expect(Buffer.compare(fs.readFileSync(shop.path('ours.vhdx')), bytes)).toBe(0)

  shop.img('check', '-r', 'all', 'theirs.vhdx')
  shop.io('theirs.vhdx', 'vhdx', ['read -P 7 1M 64k', 'read -P 0 0 1M'])

  const writable = await openImage(shop.layer, shop.path('ours.vhdx'), { readOnly: false, format: 'vhdx' })
  await writable.close()
  shop.img('check', 'ours.vhdx')
  shop.img('compare', 'ours.vhdx', 'theirs.vhdx')
})
