import { afterEach, expect, test } from 'vitest'
import { addDirtyBitmap, type Backend, type BlockNode } from '../../src/graph/index.js'
import { type BackupOptions, createBackup, startBackups } from '../../src/jobs/index.js'
import { chainOf, Guest, Machine, read, seeded } from './machine.js'

const size = 1 << 20
const cluster = 65536
const ending = ['waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded', 'null']

const machines: Machine[] = []

function make(options = {}): Machine {
  const machine = new Machine(options)
  machines.push(machine)
  return machine
}

afterEach(() => {
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

async function target(machine: Machine, name = '/t', backing?: string): Promise<BlockNode> {
  await machine.create({ name, size, clusterSize: 4096, ...(backing === undefined ? {} : { backing }) })
  return await machine.layer.open(name, { driver: 'qcow2' }, { write: true, unmap: true })
}

async function close(machine: Machine, ...things: (Backend | BlockNode)[]): Promise<void> {
  for (const thing of things) {
    await ('close' in thing ? thing.close() : machine.layer.unref(thing))
  }
}

for (const compress of [false, true]) {
  test(`a full backup${compress ? ', compressed,' : ''} is the image as it was when the job began`, async () => {
    const machine = make({ delay: () => 1 })
    const device = await source(machine)
    const before = await read(device)
    const guest = new Guest(device, before.slice(), 3)
    const copy = await target(machine)
    const job = await createBackup({
      ...{
        node: device.node,
        target: copy,
        sync: 'full',
        jobId: 'j',
        compress,
        maxChunk: cluster,
        maxWorkers: 1,
      },
    })
    expect(chainOf(device.node)).toEqual(['copy-before-write', '/b', '/a'])
    guest.start()
    while (guest.writes < 5) {
      await new Promise((resolve) => setImmediate(resolve))
    }
    job.start()
    await job.wait()
    await guest.stop()
    expect(machine.told('j')).toEqual(['created', 'running', ...ending])
    expect(job.progress.offset).toBe(size)
    expect(chainOf(device.node)).toEqual(['/b', '/a'])
    expect(Buffer.compare(await read(device), guest.model)).toBe(0)
    await close(machine, copy, device)
    expect(Buffer.compare(await machine.contents('/t'), before)).toBe(0)
  })
}

test('top copies what the image itself holds', async () => {
  const machine = make({ delay: () => 1 })
  const device = await source(machine)
  const before = await read(device)
  const guest = new Guest(device, before.slice(), 9)
  const copy = await target(machine, '/t', '/a')
  const job = await createBackup({ node: device.node, target: copy, sync: 'top', jobId: 'j' })
  guest.start()
  job.start()
  await job.wait()
  await guest.stop()
  expect(job.progress.len).toBeLessThan(size)
  await close(machine, copy, device)
  expect(Buffer.compare(await machine.contents('/t'), before)).toBe(0)
})

test('none copies what the guest overwrites, until it is cancelled', async () => {
  const machine = make({ delay: () => 1 })
  const device = await source(machine)
  const before = await read(device)
  await machine.create({ name: '/t', size, clusterSize: 4096, backing: '/b' })
  // The target shows the image where nothing was copied: the image as it was.
  const copy = await machine.layer.open('/t', { driver: 'qcow2', backing: device.node.name }, { write: true })
  const guest = new Guest(device, before.slice(), 10)
  const job = await createBackup({ node: device.node, target: copy, sync: 'none', jobId: 'j' })
  job.start()
  guest.start()
  await new Promise((resolve) => setTimeout(resolve, 50))
  await guest.stop()
  const seen = new Uint8Array(size)
  await copy.read(0, size, seen, 0, 0)
  expect(Buffer.compare(seen, before)).toBe(0)
  expect(Buffer.compare(await read(device), guest.model)).toBe(0)
  job.cancelAsBlockJob()
  await job.wait().catch(() => undefined)
  expect(machine.told('j')).toEqual([
    ...['created', 'running', 'aborting', 'BLOCK_JOB_CANCELLED', 'concluded', 'null'],
  ])
  await close(machine, copy, device)
})

async function backedUp(
  machine: Machine,
  device: Backend,
  options: Partial<BackupOptions>,
  meanwhile: () => Promise<void> = async () => undefined,
): Promise<{ target: Uint8Array; error: string | undefined }> {
  const copy = await target(machine)
  const job = await createBackup({
    ...{ node: device.node, target: copy, sync: 'full', jobId: 'j', ...options },
  })
  await meanwhile()
  job.start()
  await job.wait().catch(() => undefined)
  await close(machine, copy)
  return { target: await machine.contents('/t'), error: job.error?.code }
}

test('incremental backups follow a bitmap', async () => {
  const machine = make()
  const device = await source(machine)
  const bitmap = await addDirtyBitmap(device.node, { name: 'b', granularity: cluster })
  await device.write(cluster, 1000, new Uint8Array(1000).fill(1))
  const before = await read(device)
  const seen = await backedUp(machine, device, { sync: 'incremental', bitmap: 'b' }, async () => {
    expect(bitmap.status).toBe('frozen')
    await device.write(3 * cluster, 10, new Uint8Array(10).fill(2))
  })
  const expected = new Uint8Array(size)
  expected.set(before.subarray(cluster, 2 * cluster), cluster)
  expect(Buffer.compare(seen.target, expected)).toBe(0)
  const after = device.node.dirtyBitmaps.find('b')
  expect(after?.status).toBe('active')
  expect(after?.nextDirtyArea(0)).toEqual({ offset: 3 * cluster, bytes: cluster })
  expect(after?.count).toBe(cluster)
  await device.close()
})

for (const [bitmapMode, failed, left] of [
  ['on-success', false, [3]],
  ['on-success', true, [1, 2, 3]],
  ['never', false, [1, 2, 3]],
  ['always', false, [3]],
  ['always', true, [2, 3]],
] as const) {
  test(`what is left in the bitmap: ${bitmapMode}, and the backup ${failed ? 'fails' : 'succeeds'}`, async () => {
    let writes = 0
    let failing = false
    const machine = make({
      fault: ({ kind, path, data }: { kind: string; path: string; data?: Uint8Array }) =>
        failing && kind === 'write' && path === '/t' && data?.[0] === 2 && ++writes > 0 ? 'EIO' : undefined,
    })
    const device = await source(machine)
    await addDirtyBitmap(device.node, { name: 'b', granularity: cluster })
    await device.write(cluster, cluster, new Uint8Array(cluster).fill(1))
    await device.write(2 * cluster, cluster, new Uint8Array(cluster).fill(2))
    const options = { sync: 'bitmap', bitmap: 'b', bitmapMode, maxWorkers: 1, maxChunk: cluster } as const
    const seen = await backedUp(machine, device, options, async () => {
      await device.write(3 * cluster, 1, new Uint8Array(1))
      failing = failed
    })
    expect(seen.error).toBe(failed ? 'EIO' : undefined)
    const bitmap = device.node.dirtyBitmaps.find('b')
    const dirty = Array.from({ length: size / cluster }, (_, at) => at).filter((at) =>
      bitmap?.get(at * cluster),
    )
    expect(dirty).toEqual(left)
    expect(bitmap?.status).toBe('active')
    await device.close()
  })
}

test('backups of several images succeed or fail together', async () => {
  for (const failing of [false, true]) {
    let broken = false
    const machine = make({
      delay: () => 1,
      fault: ({ kind, path }: { kind: string; path: string }) =>
        broken && kind === 'write' && path === '/u' ? 'ENOSPC' : undefined,
    })
    const a = await source(machine, 1)
    const b = await source(machine, 2, ['/c', '/d'])
    const before = [await read(a), await read(b)]
    const copies = [await target(machine, '/t'), await target(machine, '/u')]
    await addDirtyBitmap(a.node, { name: 'x', granularity: cluster })
    await a.write(0, 512, new Uint8Array(512))
    before[0]?.fill(0, 0, 512)
    broken = failing
    const jobs = await startBackups(
      [
        {
          node: a.node,
          target: copies[0] as BlockNode,
          sync: 'full',
          jobId: 'j',
          bitmap: 'x',
          bitmapMode: 'on-success',
        },
        { node: b.node, target: copies[1] as BlockNode, sync: 'full', jobId: 'k' },
      ],
      'grouped',
    )
    await Promise.allSettled(jobs.map((job) => job.wait()))
    expect(jobs.map(({ error }) => error?.code)).toEqual(
      failing ? ['ECANCELED', 'ENOSPC'] : [undefined, undefined],
    )
    expect(a.node.dirtyBitmaps.find('x')?.count).toBe(failing ? cluster : 0)
    broken = false
    await close(machine, ...copies, a, b)
    if (!failing) {
      expect(Buffer.compare(await machine.contents('/t'), before[0] as Uint8Array)).toBe(0)
      expect(Buffer.compare(await machine.contents('/u'), before[1] as Uint8Array)).toBe(0)
    }
  }
})

test('the backup stops on an error, and goes on', async () => {
  let failing = false
  const machine = make({
    fault: ({ kind, path }: { kind: string; path: string }) =>
      failing && kind === 'write' && path === '/t' ? 'ENOSPC' : undefined,
  })
  const device = await source(machine)
  const before = await read(device)
  const copy = await target(machine)
  failing = true
  const job = await createBackup({
    ...{ node: device.node, target: copy, sync: 'full', jobId: 'j', onTargetError: 'enospc' },
  })
  job.start()
  while (job.status !== 'paused') {
    await new Promise((resolve) => setImmediate(resolve))
  }
  failing = false
  job.resume()
  await job.wait()
  await close(machine, copy, device)
  expect(Buffer.compare(await machine.contents('/t'), before)).toBe(0)
})

test('what is refused', async () => {
  const machine = make()
  const device = await source(machine)
  const copy = await target(machine)
  await machine.create({ name: '/s', size: size / 2 })
  const short = await machine.layer.open('/s', { driver: 'qcow2' }, { write: true })
  const raw = await machine.layer.open('/s', { driver: 'file' }, { write: false })
  const { node } = device
  await addDirtyBitmap(node, { name: 'b' })
  const refused = async (options: object, message: string): Promise<void> => {
    await expect(createBackup({ node, target: copy, sync: 'full', ...options })).rejects.toThrow(message)
  }
  await refused({ target: node }, 'Source and target cannot be the same')
  await refused({ target: short }, 'Source and target image have different sizes')
  await refused({ target: raw, compress: true }, 'Compression is not supported for this drive')
  await refused({ bitmapMode: 'never' }, 'Cannot specify bitmap sync mode without a bitmap')
  await refused({ sync: 'bitmap' }, "must provide a valid bitmap name for 'bitmap' sync mode")
  await refused(
    { sync: 'incremental', bitmap: 'b', bitmapMode: 'never' },
    "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
  )
  await refused({ bitmap: 'c', bitmapMode: 'always' }, "Bitmap 'c' could not be found")
  await refused({ bitmap: 'b' }, 'Bitmap sync mode must be given when providing a bitmap')
  await refused(
    { sync: 'none', bitmap: 'b', bitmapMode: 'always' },
    "sync mode 'none' does not produce meaningful bitmap outputs",
  )
  await refused(
    { bitmap: 'b', bitmapMode: 'never' },
    "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode 'full'",
  )
  await refused({ maxChunk: 4096 }, 'Required max-chunk (4096) is less than backup cluster size (65536)')
  await refused({ bitmap: 'b', bitmapMode: 'always', jobId: '?' }, "Invalid job ID '?'")
  expect(node.dirtyBitmaps.find('b')?.status).toBe('active')
  expect(chainOf(node)).toEqual(['/b', '/a'])
  const job = await createBackup({ node, target: copy, sync: 'full', jobId: 'j' })
  await refused({}, 'busy: block device is in use by block job: backup')
  job.cancel()
  await job.wait().catch(() => undefined)
  await close(machine, copy, short, raw, device)
})
