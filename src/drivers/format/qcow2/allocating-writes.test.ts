import { expect, test } from 'vitest'
import { allDrivers } from '../../../all-drivers.js'
import { checkNode, createBlockLayer, createWithDriver } from '../../../graph/index.js'
import { createNodeHost } from '../../../platform/node/index.js'
import { MemoryHost } from '../../../testing/index.js'

const path = '/image.qcow2'
const cluster = 65536

test('a request that had to wait does not make later ones wait for each other', async () => {
  const slow = { turns: 0 }
  const host = new MemoryHost({ codecs: createNodeHost().codecs, delay: () => slow.turns })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size: 2 ** 26 })
  const node = await layer.open(path, { driver: 'qcow2' }, { write: true })
  const data = new Uint8Array(cluster)
  let next = 0
  const write = () => node.write(next++ * cluster, cluster, data.fill(next), 0, 0)
  // The first tables come slowly: sixteen requests wait for them.
  slow.turns = 20
  const waiting = Array.from({ length: 16 }, write)
  expect(waiting.every((wait) => wait !== undefined)).toBe(true)
  slow.turns = 0
  let atOnce = 0
  await Promise.all(
    waiting.map(async (wait) => {
      await wait
      while (next < 512) {
        const further = write()
        if (further === undefined) {
          atOnce++
        } else {
          await further
        }
      }
    }),
  )
  expect(atOnce).toBeGreaterThan(400)
  await node.flush()
  expect((await checkNode(node, { leaks: false, errors: false })).corruptions).toBe(0)
  await layer.closeAll()
})
