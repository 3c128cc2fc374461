import { expect, test } from 'vitest'
import { createBlockLayer, createWithDriver } from '../../../graph/index.js'
import { monotonicClock } from '../../../sched/index.js'
import { FakeClock, MemoryHost } from '../../../testing/index.js'
import { file } from '../../protocol/file/index.js'
import { Qcow2Image } from './image.js'
import { qcow2 } from './index.js'

const mebibyte = 1 << 20

async function opened(options: Record<string, string | number>) {
  const clock = new FakeClock()
  const layer = createBlockLayer({ host: new MemoryHost({ clock }), drivers: [qcow2, file] })
  await createWithDriver(layer, qcow2, '/image', { size: 64 * mebibyte, cluster_size: 4096 })
  const node = await layer.open('/image', { driver: 'qcow2', ...options }, { write: true })
  const buffer = new Uint8Array(4096).fill(1)
  const touch = async (megabyte: number) => {
    await node.read(megabyte * mebibyte, buffer.length, buffer, 0, 0)
  }
  for (let at = 0; at < 16; at += 2) {
    await node.write(at * mebibyte, buffer.length, buffer, 0, 0)
  }
  if (!(node.state instanceof Qcow2Image)) {
    throw new Error('not a qcow2 image')
  }
  return { clock, layer, node, touch, meta: node.state.metadata }
}

test('tables that were not used for an interval leave the cache, those in use and changed ones stay', async () => {
  const { clock, layer, node, touch, meta } = await opened({ 'cache-clean-interval': 10 })
  // A new table makes the others durable, so only the last one still has to be written.
  expect(meta.l2.size).toBe(8)
  await clock.advance(25)
  expect([meta.l2.size, meta.l2.isDirty]).toEqual([1, true])
  await node.flush()
  await touch(2)
  await touch(6)
  await clock.advance(10)
  expect(meta.l2.size).toBe(2)
  await touch(4)
  await clock.advance(10)
  expect(meta.l2.size).toBe(1)
  const buffer = new Uint8Array(4096)
  await node.read(14 * mebibyte, buffer.length, buffer, 0, 0)
  expect(buffer.every((byte) => byte === 1)).toBe(true)
  await clock.advance(30)
  expect(meta.l2.size + meta.blocks.size).toBe(0)
  await layer.unref(node)
})

test('0 keeps everything; the interval is 600 seconds by default', async () => {
  const never = await opened({ 'cache-clean-interval': 0 })
  await never.node.flush()
  await never.clock.advance(10_000)
  expect(never.meta.l2.size).toBe(8)
  await never.layer.unref(never.node)
  const usual = await opened({})
  await usual.node.flush()
  await usual.clock.advance(1199)
  expect(usual.meta.l2.size).toBe(8)
  await usual.clock.advance(2)
  expect(usual.meta.l2.size).toBe(0)
  await usual.layer.unref(usual.node)
})

test('a background timer of the real clock does not keep the process alive', () => {
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const before = timers()
  const foreground = monotonicClock.after(30e9, () => undefined)
  expect(timers()).toBe(before + 1)
  const background = monotonicClock.after(30e9, () => undefined, { background: true })
  expect(timers()).toBe(before + 1)
  foreground()
  background()
})
