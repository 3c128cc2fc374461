import { afterAll, expect, test } from 'vitest'
import { openImage } from '../../../src/library/index.js'
import { Workshop } from '../image/qemu.js'

const shop = new Workshop()
afterAll(() => shop.clear())

test.each([
  ['dynamic', 'block_size=1M', 400],
  ['fixed', 'subformat=fixed,block_state_zero=off', 60],
  ['outgrown', 'block_size=1M', 200 << 10],
])('QEMU reads a %s disk that we made longer', async (title, options, mebibytes) => {
  const name = `${title}.vhdx`
  shop.img('create', '-q', '-f', 'vhdx', '-o', options, name, '5632K')
  shop.io(name, 'vhdx', ['write -P 3 1M 1M', 'write -P 4 5M 512k'])
  const image = await openImage(shop.layer, shop.path(name), { readOnly: false, format: 'vhdx' })
  await image.resize(mebibytes * 2 ** 20)
  await image.write((mebibytes - 1) * 2 ** 20, new Uint8Array(65536).fill(9))
  await image.close()
  expect(shop.json('info', '-f', 'vhdx', name)).toMatchObject({ 'virtual-size': mebibytes * 2 ** 20 })
  shop.img('check', '-f', 'vhdx', name)
  shop.io(name, 'vhdx', [
    'read -P 3 1M 1M',
    'read -P 4 5M 512k',
    'read -P 0 5632k 10M',
    `read -P 9 ${mebibytes - 1}M 64k`,
    'write -P 7 8M 64k',
  ])
  shop.img('check', '-f', 'vhdx', name)
})
