import { expect, test } from 'vitest'
import { type Backend, checkNode } from '../../src/graph/index.js'
import { createCommit, createStream } from '../../src/jobs/index.js'
import { chainOf, Guest, Machine, read, seeded } from './machine.js'

const size = 1 << 20
const names = ['/a', '/b', '/c', '/d']

async function chain(machine: Machine, seed = 1, sizes = [size, size, size, size]): Promise<Backend> {
  const random = seeded(seed)
  return await machine.chain(
    names.map((name, at) => ({ name, size: sizes[at] ?? size, clusterSize: 4096 })),
    async (at, write) => {
      for (let i = 0; i < 20; i++) {
        const bytes = 512 * (1 + random(30))
        const offset = 512 * random((sizes[at] ?? size) / 512 - 30)
        await write(offset, new Uint8Array(bytes).fill(1 + random(255)))
      }
    },
  )
}

function node(device: Backend, depth: number) {
  let at = device.node
  for (let i = 0; i < depth; i++) {
    at = at.backing ?? at.filterNode ?? at
  }
  return at
}

async function sound(device: Backend): Promise<void> {
  const result = await checkNode(device.node, { leaks: false, errors: false })
  expect(result).toMatchObject({ corruptions: 0, checkErrors: 0 })
}

const ending = ['waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded', 'null']

test('stream of everything leaves one image', async () => {
  const machine = new Machine({ delay: () => 1 })
  const device = await chain(machine)
  const before = await read(device)
  const job = await createStream({ node: device.node, jobId: 'j' })
  expect(chainOf(device.node)).toEqual(['copy-on-read', '/d', '/c', '/b', '/a'])
  job.start()
  const guest = new Guest(device, before, 5).start()
  await job.wait()
  await guest.stop()
  expect(guest.writes).toBeGreaterThan(0)
  expect(chainOf(device.node)).toEqual(['/d'])
  expect(Buffer.compare(await read(device), guest.model)).toBe(0)
  await sound(device)
  await device.close()
  expect(Buffer.compare(await machine.contents('/d'), guest.model)).toBe(0)
  expect(machine.told('j')).toEqual(['created', 'running', ...ending])
  expect(machine.layer.nodes.size).toBe(0)
})

test('stream of an image in the middle down to a base', async () => {
  const machine = new Machine()
  const device = await chain(machine, 2, [size, size, size / 2, size])
  const before = await read(device)
  const below = node(device, 1)
  const wasReadOnly = below.readOnly
  const job = await createStream({ node: below, base: node(device, 3), jobId: 'j', filterNodeName: 'f' })
  expect(chainOf(device.node)).toEqual(['/d', 'copy-on-read', '/c', '/b', '/a'])
  expect(machine.layer.findNode('f')?.driver?.name).toBe('copy-on-read')
  job.start()
  await job.wait()
  expect(chainOf(device.node)).toEqual(['/d', '/c', '/a'])
  expect(below.readOnly).toBe(wasReadOnly)
  expect(below.backingFile).toBe('/a')
  await sound(device)
  await device.close()
  expect(Buffer.compare(await machine.contents('/d'), before)).toBe(0)
})

test('a cancelled stream changes nothing that can be seen', async () => {
  const machine = new Machine({ delay: () => 1 })
  const device = await chain(machine)
  const before = await read(device)
  const job = await createStream({ node: device.node, jobId: 'j', speed: 1000 })
  job.start()
  await new Promise((resolve) => setTimeout(resolve, 20))
  job.cancel()
  await expect(job.wait()).rejects.toMatchObject({ code: 'ECANCELED' })
  expect(machine.told('j').slice(-4)).toEqual(['aborting', 'BLOCK_JOB_CANCELLED', 'concluded', 'null'])
  expect(chainOf(device.node)).toEqual(['/d', '/c', '/b', '/a'])
  expect(Buffer.compare(await read(device), before)).toBe(0)
  await sound(device)
  // And it can be done again.
  const again = await createStream({ node: device.node, base: node(device, 2), jobId: 'j' })
  again.start()
  await again.wait()
  expect(chainOf(device.node)).toEqual(['/d', '/b', '/a'])
  expect(Buffer.compare(await read(device), before)).toBe(0)
  await device.close()
})

test('an intermediate commit takes images out of the chain', async () => {
  const machine = new Machine({ delay: () => 1 })
  const device = await chain(machine, 3, [size / 2, size, size, size])
  const before = await read(device)
  const base = node(device, 3)
  const job = await createCommit({
    ...{ node: device.node, top: node(device, 1), base, jobId: 'j', backingFile: '/a' },
  })
  expect(chainOf(device.node)).toEqual(['/d', 'commit_top', '/c', '/b', '/a'])
  job.start()
  const guest = new Guest(device, before, 9).start()
  await job.wait()
  await guest.stop()
  expect(chainOf(device.node)).toEqual(['/d', '/a'])
  expect(base.readOnly).toBe(true)
  expect(Buffer.compare(await read(device), guest.model)).toBe(0)
  await sound(device)
  await device.close()
  expect(Buffer.compare(await machine.contents('/d'), guest.model)).toBe(0)
  expect(machine.told('j')).toEqual(['created', 'running', ...ending])
  expect(machine.layer.nodes.size).toBe(0)
})

test('a cancelled commit leaves the chain as it was', async () => {
  const machine = new Machine()
  const device = await chain(machine, 4)
  const before = await read(device)
  const base = node(device, 2)
  const job = await createCommit({
    ...{ node: device.node, top: node(device, 1), base, jobId: 'j', speed: 1000 },
  })
  job.start()
  await new Promise((resolve) => setTimeout(resolve, 20))
  job.cancel()
  await expect(job.wait()).rejects.toMatchObject({ code: 'ECANCELED' })
  expect(chainOf(device.node)).toEqual(names.toReversed())
  expect(base.readOnly).toBe(true)
  expect(Buffer.compare(await read(device), before)).toBe(0)
  await device.close()
})

test('the chain cannot be used by two jobs', async () => {
  const machine = new Machine()
  const device = await chain(machine, 4)
  const job = await createStream({ node: device.node, base: node(device, 3), jobId: 'j', speed: 1 })
  await expect(
    createCommit({ node: device.node, top: node(device, 3), base: node(device, 4), jobId: 'k' }),
  ).rejects.toMatchObject({ code: 'EBUSY' })
  expect(chainOf(device.node)).toEqual(['copy-on-read', ...names.toReversed()])
  job.cancel()
  await job.wait().catch(() => undefined)
  expect(chainOf(device.node)).toEqual(names.toReversed())
  await device.close()
  expect(machine.layer.nodes.size).toBe(0)
})

test('on an error the job stops, and goes on when the user says so', async () => {
  let failing = false
  const machine = new Machine({
    fault: ({ kind, path }) => (failing && kind === 'write' && path === '/d' ? 'ENOSPC' : undefined),
  })
  const device = await chain(machine)
  const before = await read(device)
  failing = true
  const job = await createStream({ node: device.node, jobId: 'j', onError: 'enospc' })
  job.start()
  while (job.status !== 'paused') {
    await new Promise((resolve) => setImmediate(resolve))
  }
  expect(job.blockInfo()).toMatchObject({ 'io-status': 'nospace', paused: true, busy: false })
  failing = false
  job.resume()
  await job.wait()
  expect(machine.told('j')).toEqual([
    ...['created', 'running', 'BLOCK_JOB_ERROR', 'paused', 'running', ...ending],
  ])
  expect(Buffer.compare(await read(device), before)).toBe(0)
  await device.close()
})

test('or it fails, at once or in the end', async () => {
  for (const onError of ['report', 'ignore'] as const) {
    let failing = false
    const machine = new Machine({
      fault: ({ kind, path }) => (failing && kind === 'write' && path === '/d' ? 'EIO' : undefined),
    })
    const device = await chain(machine)
    const before = await read(device)
    const job = await createStream({ node: device.node, jobId: 'j', onError })
    failing = true
    job.start()
    await expect(job.wait()).rejects.toMatchObject({ code: 'EIO', message: 'Input/output error' })
    failing = false
    expect(chainOf(device.node)).toEqual(names.toReversed())
    expect(machine.events.find(({ event }) => event === 'BLOCK_JOB_COMPLETED')?.data).toMatchObject({
      device: 'j',
      error: 'Input/output error',
    })
    expect(Buffer.compare(await read(device), before)).toBe(0)
    await device.close()
  }
})
