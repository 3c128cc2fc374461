import { expect, test } from 'vitest'
import { failure, memoryLayer, pattern } from '../../tests/seed/fixtures.js'
import {
  addBlockdev,
  Backend,
  type BlockLayer,
  createWithDriver,
  deviceInfo,
  isInactive,
  Perm,
  removeBlockdev,
  reopenNode,
  setActive,
  snapshotBlockdev,
} from './index.js'

async function setup() {
  const made = memoryLayer()
  made.host.put('/a', pattern(65536, 1))
  const qcow2 = made.layer.findFormat('qcow2')
  if (qcow2 === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(made.layer, qcow2, '/top', { size: 65536 })
  return made
}

const raw = (layer: BlockLayer, name: string) =>
  addBlockdev(layer, { driver: 'raw', 'node-name': name, file: { driver: 'file', filename: '/a' } })
const overlay = (layer: BlockLayer, name: string, more: Record<string, boolean | null> = {}) =>
  addBlockdev(layer, {
    driver: 'qcow2',
    'node-name': name,
    file: { driver: 'file', filename: '/top' },
    backing: null,
    ...more,
  })

test('a node the user made stays until the user removes it, and only while nothing uses it', async () => {
  const { layer } = await setup()
  expect((await failure(() => addBlockdev(layer, { driver: 'null-co' }))).message).toBe(
    "'node-name' must be specified for the root node",
  )
  const node = await raw(layer, 'n')
  const message = async (name: string) => (await failure(() => removeBlockdev(layer, name))).message
  expect(await message('gone')).toBe("Failed to find node with node-name='gone'")
  expect(await message(node.file?.name ?? '')).toBe(`Node ${node.file?.name} is not owned by the monitor`)
  const reason = { message: 'no' }
  node.opBlockers.block('drive-del', reason)
  expect(await message('n')).toBe("Node 'n' is busy: no")
  node.opBlockers.unblockAll(reason)
  const user = new Backend(layer, { perm: 0 })
  await user.insert(node)
  expect(await message('n')).toBe('Node n is in use')
  await user.close()
  layer.ref(node)
  expect(await message('n')).toBe('Block device n is in use')
  node.references--
  await removeBlockdev(layer, 'n')
  expect([layer.findNode('n'), layer.nodes.size, layer.userNodes.size]).toEqual([undefined, 0, 0])
})

test('a snapshot on top: what it refuses, and who writes to it afterwards', async () => {
  const { layer, host } = await setup()
  const base = await raw(layer, 'base')
  const device = new Backend(layer, { name: 'd0', perm: Perm.consistentRead | Perm.write })
  await device.insert(base)
  const top = await overlay(layer, 'top')
  const message = async (name: string, over: string) =>
    (await failure(() => snapshotBlockdev(layer, name, over))).message
  expect(await message('gone', 'top')).toBe("Cannot find device='gone' nor node-name='gone'")
  const plain = await addBlockdev(layer, { driver: 'null-co', 'node-name': 'null', size: 512 })
  expect(await message('d0', 'null')).toBe('The overlay does not support backing images')
  const reader = new Backend(layer, { perm: Perm.consistentRead })
  await reader.insert(top)
  expect(await message('d0', 'top')).toBe('The overlay is already in use')
  await reader.close()
  const reason = { message: 'a job runs' }
  base.opBlockers.block('external-snapshot', reason)
  expect(await message('d0', 'top')).toBe("Node 'd0' is busy: a job runs")
  base.opBlockers.unblockAll(reason)
  await snapshotBlockdev(layer, 'd0', 'top')
  expect([device.node, top.backing]).toEqual([top, base])
  expect(await message('base', 'top')).toBe("Node 'base' is busy: node is used as backing hd of 'top'")
  await device.write(0, 512, pattern(512, 9))
  expect(host.contents('/a')?.bytes().subarray(0, 512)).toEqual(pattern(65536, 1).subarray(0, 512))
  await device.close()
  await removeBlockdev(layer, plain.name)
  await removeBlockdev(layer, 'top')
  await removeBlockdev(layer, 'base')
  expect(layer.nodes.size).toBe(0)
})

test('a snapshot of an inactive node makes the overlay inactive, too', async () => {
  const { layer } = await setup()
  await raw(layer, 'base')
  await setActive(layer, 'base', false)
  const top = await overlay(layer, 'top')
  await snapshotBlockdev(layer, 'base', 'top')
  expect(isInactive(top)).toBe(true)
  await setActive(layer, undefined, true)
  expect([isInactive(top), top.backing && isInactive(top.backing)]).toEqual([false, false])
  await layer.closeAll()
})

test('what a device tells of itself', async () => {
  const { layer } = await setup()
  const device = new Backend(layer, { name: 'd0' })
  expect(deviceInfo(device)).toEqual({ device: 'd0', type: 'unknown', removable: true, locked: false })
  device.device.attach({
    id: 'ide0',
    ops: { changeMedia: () => undefined, isTrayOpen: () => true, isMediumLocked: () => true },
  })
  device.errors.enableStatus()
  expect(deviceInfo(device)).toEqual({
    device: 'd0',
    qdev: 'ide0',
    type: 'unknown',
    removable: true,
    locked: true,
    tray_open: true,
    'io-status': 'ok',
  })
  await device.close()
})

test('the write cache belongs to the device: a reopen of the node leaves it as it is', async () => {
  const { layer } = await setup()
  const device = await Backend.open(layer, '/a', { driver: 'raw' }, { write: true })
  device.writeCache = false
  expect([device.writeThrough, device.writeCache]).toEqual([true, false])
  await reopenNode(device.node, { 'cache.no-flush': true })
  expect([device.node.noFlush, device.writeCache]).toEqual([true, false])
  device.writeCache = true
  await reopenNode(device.node, { 'cache.no-flush': false })
  expect([device.node.noFlush, device.writeThrough]).toEqual([false, false])
  await device.close()
})
