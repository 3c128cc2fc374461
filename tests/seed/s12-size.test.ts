import { expect, test } from 'vitest'
import {
  allocatedSize,
  amendNode,
  Backend,
  type BlockNode,
  checkNode,
  createWithDriver,
  hasZeroInit,
  isInserted,
  truncateNode,
} from '../../src/graph/index.js'
import { failure, memoryLayer, pattern, toyFormat } from './fixtures.js'

const exact = { exact: true, preallocation: 'off', zero: false } as const

async function qcow2(size: number, more: Record<string, string> = {}) {
  const made = memoryLayer({ drivers: [toyFormat('fixed')] })
  const driver = made.layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(made.layer, driver, '/q', { size, ...more })
  return made
}

test('row 93: check needs a medium and a driver that can', async () => {
  const { layer, host } = await qcow2(65536)
  host.put('/a', new Uint8Array(512))
  const raw = await layer.open('/a', { driver: 'raw' })
  const none = { leaks: false, errors: false }
  expect((await failure(() => checkNode(raw, none))).code).toBe('ENOTSUP')
  await layer.unref(raw)
  expect((await failure(() => checkNode(raw, none))).code).toBe('ENOMEDIUM')
  const image = await layer.open('/q')
  expect(await checkNode(image, none)).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 })
  await layer.unref(image)
})

test('row 94: lengths are whole sectors, and a closed node has no medium', async () => {
  const { layer, host } = await qcow2(65536)
  host.put('/odd', new Uint8Array(700))
  const node = await layer.open('/odd', { driver: 'raw' })
  expect(node.length).toBe(1024)
  await layer.unref(node)
  const device = new Backend(layer, { name: 'd' })
  expect((await failure(() => device.length)).code).toBe('ENOMEDIUM')
  await device.close()
})

test('row 95: allocated size comes from the file', async () => {
  const { layer, host } = await qcow2(1 << 20)
  const image = await layer.open('/q')
  expect(await allocatedSize(image)).toBe(host.contents('/q')?.allocated)
  await layer.unref(image)
  expect((await failure(() => allocatedSize(image))).code).toBe('ENOMEDIUM')
})

test('row 96: truncate refuses in order: medium, negative, read-only, unsupported', async () => {
  const { layer, host } = await qcow2(65536)
  host.put('/a', pattern(4096, 1))
  const readOnly = await layer.open('/a', { driver: 'raw' })
  expect((await failure(() => truncateNode(readOnly, -1, exact))).message).toBe(
    'Image size cannot be negative',
  )
  expect(await failure(() => truncateNode(readOnly, 512, exact))).toEqual({
    code: 'EACCES',
    message: 'Image is read-only',
  })
  await layer.unref(readOnly)
  expect((await failure(() => truncateNode(readOnly, 512, exact))).message).toBe('No medium inserted')
  const fixed = await layer.open('/a', { driver: 'fixed' }, { write: true })
  expect((await failure(() => truncateNode(fixed, 512, exact))).message).toBe(
    'Image format driver does not support resize',
  )
  await layer.unref(fixed)
  const image = await layer.open('/q', {}, { write: true })
  let told = 0
  image.onGrow = () => told++
  await truncateNode(image, 131072, exact)
  expect([image.length, told]).toEqual([131072, 1])
  expect((await failure(() => truncateNode(image, 2 ** 54, exact))).code).toBe('EFBIG')
  await layer.unref(image)
})

test('row 96: a longer backing file does not show through after growing', async () => {
  const { layer, host } = memoryLayer()
  host.put('/base', pattern(65536, 3))
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, '/o', {
    size: 4096,
    backing_file: '/base',
    backing_fmt: 'raw',
    cluster_size: 512,
  })
  const image = await layer.open('/o', {}, { write: true })
  await truncateNode(image, 16384, exact)
  const buffer = new Uint8Array(16384)
  await image.read(0, 16384, buffer, 0, 0)
  expect(buffer.subarray(0, 4096)).toEqual(pattern(65536, 3).subarray(0, 4096))
  expect(buffer.subarray(4096).every((byte) => byte === 0)).toBe(true)
  await layer.unref(image)
})

test('row 97: a fresh image is zero unless it has a backing file or cannot tell', async () => {
  const { layer, host } = await qcow2(65536, { backing_file: '/a', backing_fmt: 'raw' })
  host.put('/a', new Uint8Array(65536))
  const overlay = await layer.open('/q')
  expect(hasZeroInit(overlay)).toBe(false)
  await layer.unref(overlay)
  expect(hasZeroInit(overlay)).toBe(false)
  const alone = await layer.open('/q', { driver: 'qcow2', backing: null })
  expect(hasZeroInit(alone)).toBe(true)
  await layer.unref(alone)
  const toy = await layer.open('/a', { driver: 'fixed' })
  expect(hasZeroInit(toy)).toBe(false)
  await layer.unref(toy)
})

test('row 98: zero writes may unmap where the driver says so', async () => {
  const { layer } = await qcow2(65536)
  const image = await layer.open('/q', { driver: 'qcow2', discard: 'unmap' }, { write: true })
  expect(image.supportedZeroFlags & 4).toBe(4)
  await image.write(0, 65536, pattern(65536, 1), 0, 0)
  await image.writeZeroes(0, 65536, 4)
  const buffer = pattern(512, 9)
  await image.read(0, 512, buffer, 0, 0)
  expect(buffer).toEqual(new Uint8Array(512))
  await layer.unref(image)
})

test('row 99: driver information, where there is any', async () => {
  const { layer, host } = await qcow2(65536)
  host.put('/a', new Uint8Array(512))
  const image = await layer.open('/q')
  expect(image.state?.info?.()).toMatchObject({ clusterSize: 65536 })
  expect(await image.state?.specificInfo?.()).toMatchObject({ type: 'qcow2' })
  await layer.unref(image)
  const toy = await layer.open('/a', { driver: 'fixed' })
  expect([toy.state?.info, toy.state?.specificInfo]).toEqual([undefined, undefined])
  await layer.unref(toy)
})

test("row 100: read-only is the node's, the write cache is the device's", async () => {
  const { layer, host } = await qcow2(65536)
  let flushes = 0
  host.put('/a', new Uint8Array(4096))
  const made = memoryLayer({ log: (operation) => (flushes += operation.kind === 'flush' ? 1 : 0) })
  made.host.put('/a', new Uint8Array(4096))
  const device = await Backend.open(made.layer, '/a', { driver: 'raw' }, { write: true })
  expect(device.node.readOnly).toBe(false)
  await device.write(0, 512, pattern(512, 1))
  expect(flushes).toBe(0)
  device.writeThrough = true
  await device.write(0, 512, pattern(512, 2))
  expect(flushes).toBe(1)
  await device.close()
  const node = await layer.open('/a', { driver: 'raw' })
  expect([node.readOnly, isInserted(node)]).toEqual([true, true])
  await layer.unref(node)
  expect(isInserted(node)).toBe(false)
})

test('row 101: amend needs a medium and a driver that can; only what is given changes', async () => {
  const { layer, host } = await qcow2(65536)
  host.put('/a', new Uint8Array(512))
  const amend = (node: BlockNode, options: Record<string, string | number | boolean>) =>
    amendNode({ node, options, force: false })
  const raw = await layer.open('/a', { driver: 'raw' }, { write: true })
  expect(raw.driver !== undefined && 'amendOptions' in raw.driver).toBe(false)
  expect(await failure(() => amend(raw, {}))).toEqual({
    code: 'ENOTSUP',
    message: "Block driver 'raw' does not support option amendment",
  })
  await layer.unref(raw)
  expect(await failure(() => amend(raw, {}))).toEqual({ code: 'ENOMEDIUM', message: 'Node is ejected' })
  const image = await layer.open('/q', {}, { write: true })
  const level = async () => (await image.state?.specificInfo?.())?.data
  await amend(image, { refcount_bits: 8 })
  expect(await level()).toMatchObject({ compat: '1.1', 'refcount-bits': 8, 'lazy-refcounts': false })
  await amend(image, { lazy_refcounts: true, size: 131072 })
  expect(await level()).toMatchObject({ 'refcount-bits': 8, 'lazy-refcounts': true })
  expect(image.length).toBe(131072)
  expect((await failure(() => amend(image, { compat: '0.10' }))).message).toBe(
    'compat=0.10 requires refcount_bits=16',
  )
  const steps: number[][] = []
  const progress = (done: number, total: number) => {
    steps.push([done, total])
  }
  const options = { compat: '0.10', refcount_bits: 16, lazy_refcounts: false }
  await amendNode({ node: image, options, force: false, progress })
  expect(await level()).toMatchObject({ compat: '0.10', 'refcount-bits': 16 })
  expect(steps.length).toBeGreaterThan(2)
  expect(steps.every(([done = 0, total = 0]) => done <= total)).toBe(true)
  expect(await failure(() => amend(image, { backing_file: '/a' }))).toMatchObject({
    message: 'Cannot amend the backing file',
  })
  await layer.unref(image)
  const again = await layer.open('/q')
  expect(await checkNode(again, { leaks: false, errors: false })).toMatchObject({ messages: [] })
  await layer.unref(again)
})
