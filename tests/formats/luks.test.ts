import { describe, expect, test } from 'vitest'
import { damageTests } from './damage.js'
import { imagePath, layerOn, makeImage, memoryHost, openOptions } from './format-under-test.js'
import { readAll } from './guest.js'

const slotBytes = 48
const firstSlot = 208

const under = {
  format: 'luks',
  create: { 'key-secret': 'secret', 'iter-time': 1 },
  open: { 'key-secret': 'secret' },
  size: 65536,
  // All but the numbers of iterations: what they ask for, the key's derivation does, as long as it takes.
  metadata: [
    [0, 160],
    [168, 208],
    [firstSlot + 8, firstSlot + slotBytes],
    [firstSlot + slotBytes + 8, firstSlot + 2 * slotBytes],
    [4096, 8192],
  ],
} as const

// A new LUKS image reads as noise and has no metadata that guests change, so that the other tests of formats do not fit.
describe('luks', () => {
  damageTests(under)

  test('the image that is damaged is sound before', async () => {
    const host = memoryHost()
    await makeImage(host, under)
    const layer = layerOn(host)
    let node = await layer.open(imagePath, openOptions(under), { write: true })
    const data = new Uint8Array(65536).map((_, at) => at * 7 + (at >> 9))
    await node.write(0, data.length, data, 0, 0)
    await layer.unref(node)
    node = await layer.open(imagePath, openOptions(under))
    expect(Buffer.compare(await readAll(node), data)).toBe(0)
    await layer.unref(node)
  })
})
