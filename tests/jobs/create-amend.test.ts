import { expect, test } from 'vitest'
import { addSecret } from '../../src/formatkit/crypto/index.js'
import { Backend, checkNode } from '../../src/graph/index.js'
import { createAmendJob, createCreateJob, JobRegistry } from '../../src/jobs/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { Machine } from './machine.js'

test('an image is made in a node, file first', async () => {
  const machine = new Machine()
  const { layer } = machine
  const file = createCreateJob(layer, {
    jobId: 'f',
    options: { driver: 'file', filename: '/x', size: 1000448 },
  })
  file.start()
  await file.wait()
  expect(machine.told('f')).toEqual(['created', 'running', 'waiting', 'pending', 'concluded'])
  expect(JobRegistry.of(layer).query()).toEqual([
    { id: 'f', type: 'create', status: 'concluded', 'current-progress': 1, 'total-progress': 1 },
  ])
  expect(JobRegistry.of(layer).queryBlockJobs()).toEqual([])
  file.dismiss()
  expect(machine.host.files.stat('/x')?.size).toBe(1000448)
  const node = await layer.open(
    undefined,
    { driver: 'file', filename: '/x', 'node-name': 'n' },
    { write: true },
  )
  await node.write(0, 512, new Uint8Array(512).fill(9), 0, 0)
  const job = createCreateJob(layer, {
    jobId: 'i',
    options: {
      ...{ driver: 'qcow2', file: 'n', size: 1 << 20, version: 'v2', 'cluster-size': 4096 },
      ...{ 'backing-file': '/base', 'backing-fmt': 'raw' },
    },
  })
  job.start()
  await job.wait()
  await layer.unref(node)
  expect(machine.host.files.stat('/x')?.size).toBeLessThan(100_000)
  const image = await layer.open('/x', { driver: 'qcow2' }, { noBacking: true })
  expect(image.length).toBe(1 << 20)
  expect(image.backingFile).toBe('/base')
  expect(image.clusterSize).toBe(4096)
  expect(await image.state?.specificInfo?.()).toMatchObject({ data: { compat: '0.10' } })
  expect(await checkNode(image, { leaks: false, errors: false })).toMatchObject({ corruptions: 0 })
  await layer.unref(image)
  expect(layer.nodes.size).toBe(0)
})

test('a create that fails says why', async () => {
  const machine = new Machine()
  const { layer } = machine
  const fails = async (options: object, message: string): Promise<void> => {
    const job = createCreateJob(layer, { jobId: 'j', autoDismiss: true, options: options as never })
    job.start()
    await expect(job.wait()).rejects.toThrow(message)
  }
  await fails(
    { driver: 'qcow2', file: 'nobody', size: 0 },
    "Cannot find device='nobody' nor node-name='nobody'",
  )
  await fails({ driver: 'qcow2', size: 0 }, "Parameter 'file' is missing")
  await fails({ driver: 'file', filename: '/x', sice: 0 }, "Parameter 'sice' is unexpected")
  await machine.create({ name: '/x', size: 512, format: 'raw' })
  const user = await Backend.open(layer, '/x', { driver: 'file', 'node-name': 'n' } as never, {
    ...{ write: true, resize: true, noShare: true },
  })
  await fails({ driver: 'qcow2', file: 'n', size: 512 }, 'Permission conflict')
  await user.close()
  for (const [driver, message] of [
    ['nonsense', "Block driver 'nonsense' not found or not supported"],
    ['raw', 'Driver does not support blockdev-create'],
    ['throttle', 'Driver does not support blockdev-create'],
  ] as const) {
    expect(() => createCreateJob(layer, { jobId: 'j', options: { driver } })).toThrow(message)
  }
})

test('a key is added to an image that is in use', async () => {
  const { codecs, ciphers } = createNodeHost()
  const machine = new Machine({ codecs, ciphers })
  const { layer } = machine
  addSecret(layer, { id: 's0', data: 'old', format: 'raw' })
  addSecret(layer, { id: 's1', data: 'new', format: 'raw' })
  const make = async (name: string, options: object): Promise<void> => {
    const job = createCreateJob(layer, { jobId: 'j', autoDismiss: true, options: options as never })
    job.start()
    await job.wait().catch((error: Error) => {
      throw new Error(`${name}: ${error.message}`)
    })
  }
  await make('file', { driver: 'file', filename: '/x', size: 0 })
  const node = await layer.open(
    undefined,
    { driver: 'file', filename: '/x', 'node-name': 'n' },
    { write: true },
  )
  await make('image', {
    ...{ driver: 'qcow2', file: 'n', size: 1 << 20 },
    encrypt: { format: 'luks', 'key-secret': 's0', 'iter-time': 10 },
  })
  await layer.unref(node)
  const open = (secret: string) =>
    layer.open('/x', { driver: 'qcow2', encrypt: { format: 'luks', 'key-secret': secret } }, { write: true })
  await expect(open('s1')).rejects.toThrow('Invalid password')
  const image = await open('s0')
  const job = createAmendJob({
    node: image,
    jobId: 'j',
    options: { driver: 'qcow2', encrypt: { state: 'active', 'new-secret': 's1', 'iter-time': 10 } },
  })
  job.start()
  await job.wait()
  expect(machine.told('j').slice(-5)).toEqual(['created', 'running', 'waiting', 'pending', 'concluded'])
  job.dismiss()
  for (const [options, message] of [
    [{ driver: 'vhdx' }, "x-blockdev-amend doesn't support changing the block driver"],
    [{ driver: 'nonsense' }, "Block driver 'nonsense' not found or not supported"],
    [{ driver: 'qcow2', what: 1 }, "Parameter 'what' is unexpected"],
  ] as const) {
    expect(() => createAmendJob({ node: image, jobId: 'j', options })).toThrow(message)
  }
  await layer.unref(image)
  await layer.unref(await open('s1'))
})
