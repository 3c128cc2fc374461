import { afterAll, expect, test } from 'vitest'
import { openImage } from '../../../src/library/index.js'
import { Workshop } from '../image/qemu.js'

const shop = new Workshop()
afterAll(() => shop.clear())

test.each(['dynamic', 'fixed'])('QEMU reads a %s disk that we made longer', async (subformat) => {
  const name = `${subformat}.vhd`
  shop.img('create', '-q', '-f', 'vpc', '-o', `subformat=${subformat}`, name, '5M')
  shop.io(name, 'vpc', ['write -P 3 1M 1M'])
  const image = await openImage(shop.layer, shop.path(name), { readOnly: false, format: 'vpc' })
  await image.resize(400 << 20)
  await image.write(399 << 20, new Uint8Array(65536).fill(9))
  await image.close()
  expect(shop.json('info', '-f', 'vpc', name)).toMatchObject({ 'virtual-size': 400 << 20 })
  shop.io(name, 'vpc', ['read -P 3 1M 1M', 'read -P 0 2M 397M', 'read -P 9 399M 64k'])
})
