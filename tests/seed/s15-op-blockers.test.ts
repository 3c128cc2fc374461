import { expect, test } from 'vitest'
import {
  Backend,
  type BlockReason,
  blockableOperations,
  checkNotBlocked,
  createSnapshot,
  createWithDriver,
  ejectDevice,
  isBlocked,
  Perm,
  removeSnapshot,
  resizeDevice,
  setBacking,
} from '../../src/graph/index.js'
import { failure, memoryLayer, pattern } from './fixtures.js'

async function setup() {
  const made = memoryLayer()
  made.host.put('/a', pattern(4096, 1))
  const node = await made.layer.open('/a', { driver: 'raw', 'node-name': 'n0' }, { write: true })
  return { ...made, node }
}

test('row 111: each operation has its own stack of reasons and the newest is shown', async () => {
  const { layer, node } = await setup()
  expect(blockableOperations.toSorted()).toEqual([
    'backup-source',
    'backup-target',
    'change',
    'commit-source',
    'commit-target',
    'dataplane',
    'drive-del',
    'eject',
    'external-snapshot',
    'internal-snapshot',
    'internal-snapshot-delete',
    'mirror-source',
    'mirror-target',
    'replace',
    'resize',
    'stream',
  ])
  const first: BlockReason = { message: 'first' }
  const second: BlockReason = { message: 'second' }
  const { opBlockers } = node
  expect([opBlockers.isEmpty, isBlocked(node, 'resize')]).toEqual([true, false])
  opBlockers.block('resize', first)
  opBlockers.block('resize', second)
  opBlockers.block('stream', first)
  expect(await failure(() => checkNotBlocked(node, 'resize'))).toEqual({
    code: 'EBUSY',
    message: "Node 'n0' is busy: second",
  })
  expect([isBlocked(node, 'resize'), isBlocked(node, 'eject'), opBlockers.isEmpty]).toEqual([
    true,
    false,
    false,
  ])
  checkNotBlocked(node, 'eject')
  opBlockers.unblock('resize', second)
  expect((await failure(() => checkNotBlocked(node, 'resize'))).message).toBe("Node 'n0' is busy: first")
  await layer.unref(node)
})

test('row 111: unblocking takes the very object that blocked, however often; all at once too', async () => {
  const { layer, node } = await setup()
  const { opBlockers } = node
  const reason: BlockReason = { message: 'same text' }
  opBlockers.block('eject', reason)
  opBlockers.block('eject', reason)
  opBlockers.unblock('eject', { message: 'same text' })
  expect(isBlocked(node, 'eject')).toBe(true)
  opBlockers.unblock('eject', reason)
  expect(opBlockers.isEmpty).toBe(true)
  opBlockers.blockAll(reason, ['stream'])
  expect(blockableOperations.filter((operation) => !isBlocked(node, operation))).toEqual(['stream'])
  opBlockers.unblockAll({ message: 'same text' })
  expect(opBlockers.isEmpty).toBe(false)
  opBlockers.unblockAll(reason)
  expect(opBlockers.isEmpty).toBe(true)
  await layer.unref(node)
})

test('row 111: a backing file takes no internal snapshots', async () => {
  const { layer, host } = memoryLayer()
  host.put('/q', new Uint8Array(0))
  const qcow2 = layer.findFormat('qcow2')
  if (qcow2 === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, qcow2, '/q', { size: 65536 })
  await createWithDriver(layer, qcow2, '/top', { size: 65536 })
  const base = await layer.open('/q', { 'node-name': 'base' }, { write: true })
  const overlay = await layer.open('/top', { 'node-name': 'overlay', backing: null })
  await setBacking(overlay, base)
  const snapshot = {
    id: '1',
    name: 's',
    dateSeconds: 0,
    dateNanoseconds: 0,
    vmClockNanoseconds: 0n,
    vmStateSize: 0,
  }
  const busy = { code: 'EBUSY', message: "Node 'base' is busy: node is used as backing hd of 'overlay'" }
  expect(await failure(() => createSnapshot(base, snapshot))).toEqual(busy)
  expect(await failure(() => removeSnapshot(base, '1', 's'))).toEqual(busy)
  await setBacking(overlay, undefined)
  await createSnapshot(base, snapshot)
  await removeSnapshot(base, '1', 's')
  await layer.unref(overlay)
  await layer.unref(base)
})

test('row 111: the device name stands for the node, and operations look first', async () => {
  const { layer, node } = await setup()
  const device = new Backend(layer, { name: 'd0', perm: Perm.consistentRead })
  await device.insert(node)
  await layer.unref(node)
  const reason: BlockReason = { message: 'somebody needs it' }
  node.opBlockers.blockAll(reason)
  expect(await failure(() => ejectDevice(layer, { device: 'd0' }))).toEqual({
    code: 'EBUSY',
    message: "Node 'd0' is busy: somebody needs it",
  })
  expect(device.node).toBe(node)
  expect(await failure(() => resizeDevice(layer, { device: 'd0' }, 8192))).toEqual({
    code: 'EBUSY',
    message: "Device 'd0' is in use",
  })
  node.opBlockers.unblock('resize', reason)
  await resizeDevice(layer, { device: 'd0' }, 8192)
  expect(node.length).toBe(8192)
  node.opBlockers.unblockAll(reason)
  await ejectDevice(layer, { device: 'd0' })
  expect(device.root).toBeUndefined()
  await device.close()
})
