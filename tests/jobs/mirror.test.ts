import { afterEach, expect, test } from 'vitest'
import { type Backend, type BlockNode, checkNode } from '../../src/graph/index.js'
import { type BlockJob, createActiveCommit, createMirror } from '../../src/jobs/index.js'
import { FakeClock } from '../../src/testing/index.js'
import { chainOf, Guest, Machine, read, seeded, untilReady } from './machine.js'

const size = 1 << 20
const ready = ['created', 'running', 'ready', 'BLOCK_JOB_READY']
const ending = ['waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded', 'null']

const machines: Machine[] = []

function make(options = {}): Machine {
  const machine = new Machine(options)
  machines.push(machine)
  return machine
}

afterEach(() => {
  // Nothing may be left behind in the graph.
  for (const machine of machines.splice(0)) {
    expect([...machine.layer.nodes].map((node) => node.name)).toEqual([])
  }
})

async function source(machine: Machine, seed = 1, names = ['/a', '/b']): Promise<Backend> {
  const random = seeded(seed)
  return await machine.chain(
    names.map((name) => ({ name, size, clusterSize: 4096 })),
    async (_, write) => {
      for (let i = 0; i < 20; i++) {
        const bytes = 512 * (1 + random(30))
        await write(512 * random(size / 512 - 30), new Uint8Array(bytes).fill(1 + random(255)))
      }
    },
  )
}

async function target(machine: Machine, name = '/t', options: object = {}): Promise<BlockNode> {
  await machine.create({ name, size, clusterSize: 4096 })
  return await machine.layer.open(name, { driver: 'qcow2', ...options }, { write: true, unmap: true })
}

async function sound(device: Backend): Promise<void> {
  const result = await checkNode(device.node, { leaks: false, errors: false })
  expect(result).toMatchObject({ corruptions: 0, checkErrors: 0 })
}

for (const copyMode of ['background', 'write-blocking'] as const) {
  test(`a full mirror, ${copyMode}, ends with the target in the place of the source`, async () => {
    const machine = make({ delay: () => 1 })
    const device = await source(machine)
    const guest = new Guest(device, await read(device), 3)
    const copy = await target(machine)
    const job = await createMirror({
      ...{ node: device.node, target: copy, sync: 'full', jobId: 'j', copyMode },
    })
    expect(chainOf(device.node)).toEqual(['mirror_top', '/b', '/a'])
    guest.start()
    job.start()
    await untilReady(job)
    await new Promise((resolve) => setTimeout(resolve, 30))
    await job.complete()
    await job.wait()
    await guest.stop()
    expect(machine.told('j')).toEqual([...ready, ...ending])
    await machine.layer.unref(copy)
    expect(chainOf(device.node)).toEqual(['/t'])
    expect(guest.writes).toBeGreaterThan(10)
    expect(Buffer.compare(await read(device), guest.model)).toBe(0)
    await sound(device)
    await device.close()
    expect(Buffer.compare(await machine.contents('/t'), guest.model)).toBe(0)
  })

  test(`a mirror that is cancelled once it is ready, ${copyMode}, leaves a consistent target`, async () => {
    const machine = make({ delay: () => 1 })
    const device = await source(machine)
    const guest = new Guest(device, await read(device), 4)
    const copy = await target(machine)
    const job = await createMirror({
      ...{ node: device.node, target: copy, sync: 'full', jobId: 'j', copyMode },
    })
    guest.start()
    job.start()
    await untilReady(job)
    job.cancelAsBlockJob()
    let then: Uint8Array | undefined
    machine.layer.events.on(({ data }) => {
      if (data.status === 'pending') {
        then = guest.model.slice()
      }
    })
    await job.wait()
    expect(machine.told('j')).toEqual([...ready, ...ending])
    expect(chainOf(device.node)).toEqual(['/b', '/a'])
    await guest.stop()
    await machine.layer.unref(copy)
    expect(Buffer.compare(await machine.contents('/t'), then ?? new Uint8Array(0))).toBe(0)
    expect(Buffer.compare(await read(device), guest.model)).toBe(0)
    await device.close()
  })
}

test('a cancel by force leaves the guest where it was', async () => {
  const machine = make({ delay: () => 1 })
  const device = await source(machine)
  const guest = new Guest(device, await read(device), 4)
  const copy = await target(machine)
  for (const wait of [false, true]) {
    const job = await createMirror({ node: device.node, target: copy, sync: 'full', jobId: 'j' })
    guest.start()
    job.start()
    if (wait) {
      await untilReady(job)
    }
    job.cancel(true)
    await expect(job.wait()).rejects.toMatchObject({ code: 'ECANCELED' })
    await guest.stop()
    expect(chainOf(device.node)).toEqual(['/b', '/a'])
    expect(Buffer.compare(await read(device), guest.model)).toBe(0)
  }
  await machine.layer.unref(copy)
  await device.close()
})

test('top copies what the image itself holds, to a target with the same backing file', async () => {
  const machine = make()
  const device = await source(machine)
  const before = await read(device)
  await machine.create({ name: '/t', size, clusterSize: 65536, backing: '/a' })
  const copy = await machine.layer.open('/t', { driver: 'qcow2' }, { write: true, noBacking: true })
  const job = await createMirror({
    ...{ node: device.node, target: copy, sync: 'top', jobId: 'j', backing: 'open', granularity: 4096 },
  })
  job.start()
  await untilReady(job)
  await job.complete()
  await job.wait()
  await machine.layer.unref(copy)
  expect(chainOf(device.node)).toEqual(['/t', '/a'])
  expect(Buffer.compare(await read(device), before)).toBe(0)
  await device.close()
  expect(Buffer.compare(await machine.contents('/t'), before)).toBe(0)
})

test('none copies what is written meanwhile, on top of the source', async () => {
  const machine = make()
  const device = await source(machine)
  const before = await read(device)
  await machine.create({ name: '/t', size, clusterSize: 4096, backing: '/b' })
  const copy = await machine.layer.open('/t', { driver: 'qcow2' }, { write: true, noBacking: true })
  const job = await createMirror({
    ...{ node: device.node, target: copy, sync: 'none', jobId: 'j', backing: 'source', unmap: false },
  })
  job.start()
  await untilReady(job)
  await device.write(5000, 3000, new Uint8Array(3000).fill(0xab))
  before.fill(0xab, 5000, 8000)
  await job.complete()
  await job.wait()
  await machine.layer.unref(copy)
  expect(chainOf(device.node)).toEqual(['/t', '/b', '/a'])
  expect(Buffer.compare(await read(device), before)).toBe(0)
  await device.close()
})

test('an active commit moves the guest to the base', async () => {
  const machine = make({ delay: () => 1 })
  const device = await source(machine, 7, ['/a', '/b', '/c'])
  const guest = new Guest(device, await read(device), 8)
  const base = device.node.backing?.backing as BlockNode
  const job = await createActiveCommit({ node: device.node, base, jobId: 'j' })
  guest.start()
  job.start()
  await untilReady(job)
  await job.complete()
  await job.wait()
  await guest.stop()
  expect(machine.told('j')).toEqual([...ready, ...ending])
  expect(chainOf(device.node)).toEqual(['/a'])
  expect(Buffer.compare(await read(device), guest.model)).toBe(0)
  await sound(device)
  await device.close()
  expect(Buffer.compare(await machine.contents('/a'), guest.model)).toBe(0)
})

test('a cancelled active commit leaves a base that is read-only again', async () => {
  const machine = make()
  const device = await source(machine, 7, ['/a', '/b'])
  const base = device.node.backing as BlockNode
  expect(base.readOnly).toBe(true)
  const before = await read(device)
  const job = await createActiveCommit({ node: device.node, base, jobId: 'j', speed: 1000 })
  expect(base.readOnly).toBe(false)
  job.start()
  job.cancel()
  await expect(job.wait()).rejects.toMatchObject({ code: 'ECANCELED' })
  expect(base.readOnly).toBe(true)
  expect(Buffer.compare(await read(device), before)).toBe(0)
  await device.close()
})

test('a node below is replaced', async () => {
  const machine = make()
  await machine.create({ name: '/a', size })
  const device = await machine.device('/a', { 'node-name': 'image' })
  const throttled = await machine.layer.open(
    undefined,
    { driver: 'copy-on-read', file: 'image', 'node-name': 'top' },
    { write: true },
  )
  await device.close()
  const copy = await target(machine)
  const job = await createMirror({
    ...{ node: throttled, target: copy, sync: 'full', jobId: 'j', replaces: 'image' },
  })
  job.start()
  await untilReady(job)
  await job.complete()
  await job.wait()
  expect(throttled.filterNode).toBe(copy)
  await machine.layer.unref(copy)
  await machine.layer.unref(throttled)
})

test('what is refused', async () => {
  const machine = make()
  const device = await source(machine)
  const copy = await target(machine)
  const { node } = device
  const refused = async (options: object, message: string): Promise<void> => {
    await expect(createMirror({ node, target: copy, sync: 'full', ...options })).rejects.toThrow(message)
  }
  await refused({ sync: 'bitmap' }, "Sync mode 'bitmap' not supported")
  await refused({ target: node }, "Can't mirror node into itself")
  await refused({ bufferBytes: -1 }, "Invalid parameter 'buf-size'")
  await refused({ jobId: '#' }, "Invalid job ID '#'")
  await refused({ granularity: 256 }, "Parameter 'granularity' expects a value in range [512B, 64MB]")
  await refused({ granularity: 1000 }, "Parameter 'granularity' expects a power of 2")
  await refused({ replaces: 'nobody' }, "Failed to find node with node-name='nobody'")
  const job = await createMirror({ node, target: copy, sync: 'full', jobId: 'j' })
  await refused({ jobId: 'j' }, 'busy: block device is in use by block job: mirror')
  job.start()
  await untilReady(job)
  job.cancelAsBlockJob()
  await job.wait()
  await machine.layer.unref(copy)
  await device.close()
})

function waitFor(condition: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (condition()) {
        resolve()
      } else {
        setImmediate(look)
      }
    }
    look()
  })
}

test('errors of the target: the job stops and goes on, or fails and the guest does not notice', async () => {
  for (const onTargetError of ['stop', 'report'] as const) {
    let failing = true
    const machine = make({
      fault: ({ kind, path }: { kind: string; path: string }) =>
        failing && kind === 'write' && path === '/t' ? 'EIO' : undefined,
    })
    failing = false
    const device = await source(machine)
    const before = await read(device)
    const copy = await target(machine)
    failing = true
    const job: BlockJob = await createMirror({
      ...{ node: device.node, target: copy, sync: 'full', jobId: 'j', onTargetError },
    })
    job.start()
    if (onTargetError === 'stop') {
      await waitFor(() => job.status === 'paused')
      failing = false
      job.resume()
      await untilReady(job)
      await job.complete()
      await job.wait()
    } else {
      await expect(job.wait()).rejects.toMatchObject({ message: 'Input/output error' })
      failing = false
    }
    await machine.layer.unref(copy)
    expect(chainOf(device.node)).toEqual(onTargetError === 'stop' ? ['/t'] : ['/b', '/a'])
    expect(Buffer.compare(await read(device), before)).toBe(0)
    await device.close()
  }
})

test('a mirror keeps its speed', async () => {
  const clock = new FakeClock()
  const machine = make({ clock })
  const device = await source(machine)
  await device.write(0, size, new Uint8Array(size).fill(1))
  const copy = await target(machine)
  const job = await createMirror({
    ...{ node: device.node, target: copy, sync: 'full', jobId: 'j', speed: 100_000, bufferBytes: 65536 },
  })
  job.start()
  for (let i = 0; i < 300; i++) {
    await clock.advance(0.01)
  }
  expect(job.progress.offset).toBeGreaterThan(200_000)
  expect(job.progress.offset).toBeLessThan(450_000)
  job.setSpeed(0)
  await untilReady(job)
  job.cancel()
  await job.wait().catch(() => undefined)
  await machine.layer.unref(copy)
  await device.close()
})
