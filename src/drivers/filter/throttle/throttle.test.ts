import { expect, test } from 'vitest'
import { Backend, createBlockLayer, drain } from '../../../graph/index.js'
import { throttleLimits } from '../../../io/index.js'
import { FakeClock, MemoryHost } from '../../../testing/index.js'
import { raw } from '../../format/raw/index.js'
import { file } from '../../protocol/file/index.js'
import { throttle } from './index.js'

function setup() {
  const clock = new FakeClock()
  const host = new MemoryHost({ clock })
  host.put('/a', new Uint8Array(1 << 20))
  host.put('/b', new Uint8Array(1 << 20))
  return { clock, layer: createBlockLayer({ host, drivers: [throttle, raw, file] }) }
}

const node = (group: string, path: string) => ({
  driver: 'throttle',
  'throttle-group': group,
  file: { driver: 'file', filename: path },
})

test('requests of all kinds but flush are limited', async () => {
  const { clock, layer } = setup()
  layer.throttleGroups.add('g', { 'iops-total': 10 })
  const image = await Backend.open(
    layer,
    undefined,
    { ...node('g', '/a'), discard: 'unmap' },
    { write: true },
  )
  const buffer = new Uint8Array(512)
  let done = 0
  const request = (wait: Promise<void> | undefined) => void Promise.resolve(wait).then(() => done++)
  await clock.advance(1)
  for (const start of [
    () => image.read(0, 512, buffer),
    () => image.write(0, 512, buffer),
    () => image.writeZeroes(0, 512),
    () => image.discard(0, 512),
  ]) {
    done = 0
    for (let i = 0; i < 5; i++) {
      request(start())
    }
    await clock.advance(0)
    expect(done).toBeLessThan(3)
    await clock.advance(1)
    expect(done).toBe(5)
  }
  for (let i = 0; i < 20; i++) {
    request(image.write(0, 512, buffer))
  }
  done = 0
  request(image.flush())
  await clock.advance(0)
  expect(done).toBeGreaterThan(0)
  await clock.advance(5)
  await image.close()
})

test('a drained section does not wait for the limits, and they hold again afterwards', async () => {
  const { clock, layer } = setup()
  layer.throttleGroups.add('g', { 'iops-total': 1 })
  const image = await Backend.open(layer, undefined, node('g', '/a'))
  const buffer = new Uint8Array(512)
  const waits = Array.from({ length: 10 }, () => image.read(0, 512, buffer))
  const section = await drain([image.node])
  await Promise.all(waits)
  section.end()
  expect(clock.now()).toBe(0)
  let more = false
  void Promise.resolve(image.read(0, 512, buffer)).then(() => {
    more = true
  })
  await clock.advance(5)
  expect(more).toBe(false)
  await clock.advance(10)
  expect(more).toBe(true)
  await image.close()
})

test('nodes of one group share its limits; a node of another does not notice', async () => {
  const { clock, layer } = setup()
  const group = layer.throttleGroups.add('g', { 'iops-total': 100 })
  layer.throttleGroups.add('free', {})
  const [a, b] = [
    await Backend.open(layer, undefined, node('g', '/a')),
    await Backend.open(layer, undefined, node('g', '/b')),
  ]
  expect(group.inUse).toBe(true)
  expect(() => {
    layer.objects.remove('g')
  }).toThrow("object 'g' is in use, can not be deleted")
  const counts = [0, 0]
  let going = true
  for (const [at, image] of [a, b].entries()) {
    const buffer = new Uint8Array(512)
    void (async () => {
      while (going) {
        await image.read(0, 512, buffer)
        counts[at] = (counts[at] ?? 0) + 1
      }
    })().catch(() => undefined)
  }
  await clock.advance(50)
  expect(counts[0]).toBeGreaterThan(2450)
  expect(counts[0]).toBeLessThan(2560)
  expect(counts[1]).toBeGreaterThan(2450)
  expect(counts[1]).toBeLessThan(2560)
  const other = await Backend.open(layer, undefined, node('free', '/a'))
  const buffer = new Uint8Array(512)
  for (let i = 0; i < 1000; i++) {
    expect(other.read(0, 512, buffer)).toBeUndefined()
  }
  await other.close()
  going = false
  await Promise.all([a.close(), b.close()])
  expect(group.inUse).toBe(false)
  layer.objects.remove('g')
})

test('options', async () => {
  const { layer } = setup()
  const open = (options: object) => layer.open(undefined, options as never)
  await expect(open({ driver: 'throttle' })).rejects.toThrow('A block device must be specified for "file"')
  const file = { driver: 'file', filename: '/a' }
  await expect(open({ driver: 'throttle', file })).rejects.toThrow('Please specify a throttle group')
  await expect(open(node('x', '/a'))).rejects.toThrow("Throttle group 'x' does not exist")
})

test('a backend has limits of its own, with a group made for it', async () => {
  const { clock, layer } = setup()
  const image = await Backend.open(layer, undefined, { driver: 'file', filename: '/a' }, { write: true })
  const buffer = new Uint8Array(4096)
  expect(image.read(0, 4096, buffer)).toBeUndefined()
  image.joinThrottleGroup('disk0')
  image.setThrottleLimits(throttleLimits({ 'bps-write': 4096 }))
  expect(image.throttleGroup).toBe('disk0')
  expect(() => layer.throttleGroups.add('disk0', {})).toThrow('A group with this name already exists')
  let written = 0
  void (async () => {
    while (image.throttleGroup !== undefined) {
      await image.write(0, 4096, buffer)
      written++
    }
  })().catch(() => undefined)
  await clock.advance(100)
  expect(written).toBeGreaterThan(98)
  expect(written).toBeLessThan(103)
  expect(image.read(0, 4096, buffer)).toBeUndefined()
  image.leaveThrottleGroup()
  expect(image.throttleGroup).toBeUndefined()
  expect(layer.throttleGroups.find('disk0')).toBeUndefined()
  await clock.advance(0)
  await image.close()
})
