import { expect, test } from 'vitest'
import { failure, memoryLayer, pattern } from '../../tests/seed/fixtures.js'
import { IoAccounting } from '../io/index.js'
import {
  Backend,
  type BlockEvent,
  backendStats,
  type DeviceModel,
  type DeviceOps,
  drain,
  nodeStats,
  Perm,
  queryBlockStats,
  setLatencyHistogram,
  setWriteThreshold,
  truncateNode,
  writeThreshold,
} from './index.js'

async function setup(name = 'drive0', ops: DeviceOps = {}) {
  const broken = { read: false }
  const made = memoryLayer({
    fault: (operation) => (broken.read && operation.kind === 'read' ? 'EIO' : undefined),
  })
  made.host.put('/a', pattern(65536, 1))
  const backend = await Backend.open(
    made.layer,
    '/a',
    { driver: 'raw' },
    { write: true, resize: true },
    { name },
  )
  const events: BlockEvent[] = []
  made.layer.events.on((event) => events.push(event))
  const model: DeviceModel = { id: 'dev0', ops }
  return { ...made, backend, broken, events, model }
}

test('device names: well formed, not taken by a device or node', async () => {
  const { layer } = await setup()
  const node = await layer.open('/a', { driver: 'raw', 'node-name': 'n0', 'force-share': true })
  const message = async (name: string) => (await failure(() => new Backend(layer, { name }))).message
  expect([await message('1x'), await message('drive0'), await message('n0')]).toEqual([
    'Invalid device name',
    "Device with id 'drive0' already exists",
    "Device name 'n0' conflicts with an existing node name",
  ])
  expect(layer.findBackend('')).toBeUndefined()
  await layer.unref(node)
  await layer.closeAll()
})

test('one device model at a time; detaching resets the block size', async () => {
  const { layer, backend, model } = await setup()
  backend.device.attach(model)
  expect((await failure(() => backend.device.attach({ ...model }))).code).toBe('EBUSY')
  backend.guestBlockSize = 4096
  expect(() => backend.device.detach({ ...model })).toThrow('not attached')
  backend.device.detach(model)
  expect([backend.guestBlockSize, backend.device.model]).toEqual([512, undefined])
  await layer.closeAll()
})

test('a device hears of drained sections, of the one under way when it is attached too, and is waited for', async () => {
  const calls: string[] = []
  let busy: Promise<void> | undefined
  const { layer, backend, model } = await setup('', {
    drainedBegin: () => calls.push('begin'),
    drainedEnd: () => calls.push('end'),
    drainedPoll: () => busy,
  })
  const outer = await drain([backend.node])
  backend.device.attach(model)
  const inner = await drain([backend.node])
  expect(calls).toEqual(['begin'])
  inner.end()
  expect(calls).toEqual(['begin'])
  outer.end()
  expect(calls).toEqual(['begin', 'end'])
  let finish = (): void => undefined
  busy = new Promise((resolve) => (finish = resolve))
  let drained = false
  const waiting = drain([backend.node]).then((section) => {
    drained = true
    section.end()
  })
  await new Promise((resolve) => setTimeout(resolve, 5))
  expect(drained).toBe(false)
  finish()
  await waiting
  await layer.closeAll()
})

test('a device hears of a new length, by truncation and by a write that grows the node', async () => {
  let resized = 0
  const { layer, backend, model } = await setup('', { resize: () => resized++ })
  backend.device.attach(model)
  await truncateNode(backend.node, 131072, { exact: true, preallocation: 'off', zero: false })
  expect(resized).toBe(1)
  await layer.closeAll()
  const file = await Backend.open(layer, '/a', { driver: 'file' }, { write: true, resize: true })
  file.device.attach(model)
  file.allowBeyondEnd = true
  await file.write(131072, 512, pattern(512, 1))
  expect([resized, file.length]).toEqual([2, 131584])
  await layer.closeAll()
})

test('error policy: what is done about which error in which direction', async () => {
  const { layer, backend } = await setup()
  const { errors } = backend
  const table = (['report', 'ignore', 'enospc', 'stop'] as const).map((policy) => {
    errors.onReadError = policy
    errors.onWriteError = policy
    return [errors.action(true, 'EIO'), errors.action(false, 'EIO'), errors.action(false, 'ENOSPC')]
  })
  expect(table).toEqual([
    ['report', 'report', 'report'],
    ['ignore', 'ignore', 'ignore'],
    ['report', 'report', 'stop'],
    ['stop', 'stop', 'stop'],
  ])
  await layer.closeAll()
})

test('I/O status: the first error that stops the device, until it is reset', async () => {
  const { layer, backend, events, model } = await setup()
  backend.device.attach(model)
  const { errors } = backend
  expect([errors.onReadError, errors.onWriteError, errors.statusEnabled]).toEqual(['report', 'enospc', false])
  expect(errors.handle(false, 'EIO')).toBe('report')
  errors.enableStatus()
  expect([errors.handle(false, 'ENOSPC'), errors.status]).toEqual(['stop', 'nospace'])
  errors.onReadError = 'stop'
  expect([errors.handle(true, 'EIO'), errors.status]).toEqual(['stop', 'nospace'])
  errors.resetStatus()
  expect([errors.status, errors.handle(true, 'EIO'), errors.status]).toEqual(['ok', 'stop', 'failed'])
  errors.onReadError = 'report'
  errors.onWriteError = 'report'
  expect(errors.statusEnabled).toBe(false)
  const node = backend.node.name
  expect(events.slice(0, 2)).toEqual([
    {
      event: 'BLOCK_IO_ERROR',
      data: {
        'qom-path': 'dev0',
        device: 'drive0',
        'node-name': node,
        operation: 'write',
        action: 'report',
        reason: 'Input/output error',
      },
    },
    {
      event: 'BLOCK_IO_ERROR',
      data: {
        'qom-path': 'dev0',
        device: 'drive0',
        'node-name': node,
        operation: 'write',
        action: 'stop',
        nospace: true,
        reason: 'No space left on device',
      },
    },
  ])
  await layer.closeAll()
})

test('accounting: what a backend does, fails at and refuses; the node counts on its own', async () => {
  const { layer, backend } = await setup()
  const time = { now: 1 }
  backend.accounting = new IoAccounting({ clock: () => time.now, intervals: [1] })
  backend.node.accounting = new IoAccounting()
  const buffer = new Uint8Array(4096)
  await backend.read(0, 4096, buffer)
  await backend.write(1024, 512, buffer)
  await backend.writeZeroes(4096, 4096)
  await backend.discard(0, 65536)
  await backend.flush()
  expect((await failure(() => backend.read(65536, 512, buffer))).code).toBe('EIO')
  expect((await failure(() => backend.write(-1, 512, buffer))).code).toBe('EIO')
  expect(backendStats(backend)).toMatchObject({
    device: 'drive0',
    'node-name': backend.node.name,
    stats: {
      rd_bytes: 4096,
      rd_operations: 1,
      wr_bytes: 4608,
      wr_operations: 2,
      unmap_bytes: 65536,
      unmap_operations: 1,
      flush_operations: 1,
      invalid_rd_operations: 1,
      invalid_wr_operations: 1,
      failed_rd_operations: 0,
      wr_highest_offset: 8192,
      account_invalid: true,
      account_failed: true,
      idle_time_ns: 0,
      timed_stats: [{ interval_length: 1, avg_rd_latency_ns: 0 }],
    },
    parent: { stats: { wr_highest_offset: 8192, rd_bytes: 0 } },
  })
  expect(nodeStats(backend.node)).toMatchObject({ stats: { rd_bytes: 4096, wr_operations: 2 } })
  await layer.closeAll()
})

test('a held request is counted with the time it waited, and a failing one as failed', async () => {
  const { layer, backend, broken } = await setup()
  const time = { now: 1 }
  backend.accounting = new IoAccounting({ clock: () => time.now })
  const section = await drain([backend.node])
  const read = backend.read(0, 512, new Uint8Array(512))
  time.now += 40
  section.end()
  await read
  expect(backend.accounting.counters.read).toMatchObject({ operations: 1, totalTime: 40 })
  broken.read = true
  expect((await failure(() => backend.read(0, 512, new Uint8Array(512)))).code).toBe('EIO')
  expect(backend.accounting.counters.read).toMatchObject({ operations: 1, failed: 1 })
  await layer.closeAll()
})

test('query-blockstats: devices, or nodes; histograms by device', async () => {
  const { layer, backend } = await setup()
  const anonymous = new Backend(layer, { perm: Perm.consistentRead })
  expect(queryBlockStats(layer).map((entry) => entry.device)).toEqual(['drive0'])
  expect(queryBlockStats(layer, true).map((entry) => entry['node-name'])).toEqual(
    [...layer.names.nodes()].map(({ name }) => name),
  )
  setLatencyHistogram(layer, { device: 'drive0' }, { all: [10, 100], flush: [5] })
  await backend.read(0, 512, new Uint8Array(512))
  const stats = () =>
    queryBlockStats(layer)[0]?.stats as Record<string, { boundaries: number[]; bins: number[] }>
  expect(stats().rd_latency_histogram?.boundaries).toEqual([10, 100])
  expect(stats().rd_latency_histogram?.bins.reduce((a, b) => a + b)).toBe(1)
  expect(stats().flush_latency_histogram).toEqual({ boundaries: [5], bins: [0, 0] })
  expect(await failure(() => setLatencyHistogram(layer, { device: 'drive0' }, { write: [2, 1] }))).toEqual({
    code: 'EINVAL',
    message: "Device 'drive0' set write boundaries fail",
  })
  setLatencyHistogram(layer, { device: 'drive0' }, {})
  expect(stats().rd_latency_histogram).toBeUndefined()
  await anonymous.close()
  await layer.closeAll()
})

test('write threshold: told once, before the write, for plain and zero writes', async () => {
  const { layer, backend, events } = await setup()
  const { name } = backend.node
  expect((await failure(() => setWriteThreshold(layer, 'gone', 1))).message).toBe("Device 'gone' not found")
  for (const write of [
    () => backend.write(4096, 8192, new Uint8Array(8192)),
    () => backend.writeZeroes(4096, 8192),
  ]) {
    setWriteThreshold(layer, name, 8192)
    expect(writeThreshold(backend.node)).toBe(8192)
    await backend.write(4096, 4096, new Uint8Array(4096))
    expect(events).toEqual([])
    await write()
    await write()
    expect(writeThreshold(backend.node)).toBe(0)
    expect(events.splice(0)).toEqual([
      {
        event: 'BLOCK_WRITE_THRESHOLD',
        data: { 'node-name': name, 'amount-exceeded': 4096, 'write-threshold': 8192 },
      },
    ])
  }
  setWriteThreshold(layer, name, 100)
  setWriteThreshold(layer, name, 0)
  await backend.write(0, 512, new Uint8Array(512))
  expect(events).toEqual([])
  await layer.closeAll()
})
