import { expect, test } from 'vitest'
import { ioError } from '../../src/errors/index.js'
import {
  Backend,
  type BlockLayer,
  type BlockNode,
  checkNode,
  createWithDriver,
  Perm,
} from '../../src/graph/index.js'
import { commitAll, commitNode } from '../../src/image/index.js'
import type { MemoryHostOptions } from '../../src/testing/index.js'
import { failure, memoryLayer, pattern } from './fixtures.js'

const cluster = 65536

async function create(
  layer: BlockLayer,
  path: string,
  options: Record<string, string | number>,
): Promise<void> {
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, options)
}

/** A raw base of four clusters under an overlay of eight. */
async function setup(options: MemoryHostOptions = {}, more: Record<string, string | number> = {}) {
  const made = memoryLayer(options)
  const { layer, host } = made
  host.put('/base', pattern(4 * cluster, 1))
  await create(layer, '/top', { size: 8 * cluster, backing_file: '/base', backing_fmt: 'raw', ...more })
  const top = await layer.open(
    '/top',
    { driver: 'qcow2', 'node-name': 'top', discard: 'unmap' },
    { write: true },
  )
  return { ...made, top }
}

async function read(node: BlockNode, offset: number, bytes: number): Promise<Uint8Array> {
  const buffer = new Uint8Array(bytes)
  await node.read(offset, bytes, buffer, 0, 0)
  return buffer
}

function backing(node: BlockNode): BlockNode {
  if (node.backing === undefined) {
    throw new Error('no backing')
  }
  return node.backing as BlockNode
}

test('row 87: no medium, no backing file, blocked on either side', async () => {
  const { layer, top } = await setup()
  const below = backing(top)
  expect((await failure(() => commitNode(below))).code).toBe('ENOTSUP')
  top.opBlockers.block('commit-source', { message: 'a test' })
  expect(await failure(() => commitNode(top))).toEqual({
    code: 'EBUSY',
    message: "Node 'top' is busy: a test",
  })
  top.opBlockers.unblockAll(top.opBlockers.reason('commit-source') ?? { message: '' })
  const reason = { message: 'another' }
  below.opBlockers.block('commit-target', reason)
  expect((await failure(() => commitNode(top))).code).toBe('EBUSY')
  below.opBlockers.unblockAll(reason)
  expect((await failure(() => commitNode(top, { base: top }))).code).toBe('EINVAL')
  await layer.unref(top)
  expect((await failure(() => commitNode(top))).code).toBe('ENOMEDIUM')
})

test('row 88: the base is writable only meanwhile, also after a failure', async () => {
  let broken = false
  const { layer, top } = await setup({
    fault: (operation) =>
      broken && operation.kind === 'write' && operation.path === '/base' ? 'EIO' : undefined,
  })
  const below = backing(top)
  await top.write(0, 512, pattern(512, 5), 0, 0)
  const seen: boolean[] = []
  await commitNode(top, { progress: () => seen.push(below.readOnly) })
  expect([new Set(seen), below.readOnly, (below.file as BlockNode).readOnly]).toEqual([
    new Set([false]),
    true,
    true,
  ])
  await top.write(0, 512, pattern(512, 6), 0, 0)
  broken = true
  expect(await failure(() => commitNode(top))).toEqual({
    code: 'EIO',
    message: 'Block job failed: Input/output error',
  })
  expect([below.readOnly, await read(top, 0, 512)]).toEqual([true, pattern(512, 6)])
  broken = false
  await layer.unref(top)
})

test('row 88: a base that cannot become writable is left alone', async () => {
  const { layer, host, top } = await setup()
  await top.write(0, 512, pattern(512, 5), 0, 0)
  // Another program reads the base and wants no changes.
  const other = await host.open('/base')
  other.setLock(201, 1, 'shared')
  expect(await failure(() => commitNode(top))).toMatchObject({
    code: 'EAGAIN',
    message: 'Failed to get "write" lock',
  })
  expect([backing(top).readOnly, await read(top, 0, 512)]).toEqual([true, pattern(512, 5)])
  other.setLock(201, 1, 'none')
  await commitNode(top)
  expect(host.contents('/base')?.bytes().subarray(0, 512)).toEqual(pattern(512, 5))
  await layer.unref(top)
})

test('row 89: a shorter base grows, a longer one stays', async () => {
  const { layer, host, top } = await setup()
  await top.write(7 * cluster, 512, pattern(512, 5), 0, 0)
  await commitNode(top)
  expect(host.contents('/base')?.size).toBe(8 * cluster)
  expect(await read(top, 7 * cluster, 512)).toEqual(pattern(512, 5))
  await layer.unref(top)
  host.put('/base', pattern(16 * cluster, 2))
  const again = await layer.open('/top', { driver: 'qcow2' }, { write: true })
  await again.write(0, 512, pattern(512, 6), 0, 0)
  await commitNode(again)
  expect(host.contents('/base')?.size).toBe(16 * cluster)
  await layer.unref(again)
})

test('row 90: what the images above the base hold is written, nothing else', async () => {
  const written: [number, number][] = []
  const { layer, host, top } = await setup({
    log: (operation) => {
      if (operation.path === '/base' && operation.kind === 'write') {
        written.push([operation.offset, operation.data.length])
      }
    },
  })
  await top.write(cluster, cluster, pattern(cluster, 5), 0, 0)
  await top.writeZeroes(3 * cluster, cluster, 0)
  await commitNode(top)
  expect(written).toEqual([[cluster, cluster]])
  const expected = pattern(4 * cluster, 1)
  expected.set(pattern(cluster, 5), cluster)
  expected.fill(0, 3 * cluster)
  expect(
    host
      .contents('/base')
      ?.bytes()
      .subarray(0, 4 * cluster),
  ).toEqual(expected)
  await layer.unref(top)
})

test('row 90: through a deeper chain to a base further down', async () => {
  const { layer, host, top } = await setup()
  await top.write(0, 512, pattern(512, 5), 0, 0)
  await top.write(cluster, 512, pattern(512, 5), 0, 0)
  await layer.unref(top)
  await create(layer, '/upper', { size: 8 * cluster, backing_file: '/top', backing_fmt: 'qcow2' })
  const upper = await layer.open('/upper', { driver: 'qcow2' }, { write: true })
  await upper.write(cluster, 512, pattern(512, 6), 0, 0)
  const middle = host.contents('/top')?.bytes()
  await commitNode(upper, { base: backing(backing(upper)), keep: true })
  const base = host.contents('/base')?.bytes()
  expect([base?.subarray(0, 512), base?.subarray(cluster, cluster + 512)]).toEqual([
    pattern(512, 5),
    pattern(512, 6),
  ])
  expect(
    Buffer.compare(host.contents('/top')?.bytes() ?? new Uint8Array(0), middle ?? new Uint8Array(1)),
  ).toBe(0)
  expect(await read(upper, cluster, 512)).toEqual(pattern(512, 6))
  await layer.unref(upper)
})

test.each([
  ['laid out like a fresh image', {}, 4],
  ['of version 2', { compat: '0.10' }, undefined],
  ['with small clusters and counts of one bit', { cluster_size: 512, refcount_bits: 1 }, undefined],
])('row 91: the image is emptied and stays sound, %s', async (_name, options, clusters) => {
  const { layer, host, top } = await setup({}, options)
  for (let at = 0; at < 8; at++) {
    await top.write(at * cluster + 512 * at, 1024, pattern(1024, at + 2), 0, 0)
  }
  const before = await read(top, 0, 8 * cluster)
  await commitNode(top)
  expect(Buffer.compare(await read(top, 0, 8 * cluster), before)).toBe(0)
  const check = await checkNode(top, { leaks: false, errors: false })
  expect([check.corruptions, check.leaks, check.checkErrors, check.allocatedClusters]).toEqual([0, 0, 0, 0])
  if (clusters !== undefined) {
    expect(host.contents('/top')?.size).toBe(clusters * cluster)
  }
  // It goes on as an empty overlay.
  await top.write(100, 512, pattern(512, 9), 0, 0)
  expect((await read(top, 0, 8 * cluster)).subarray(100, 612)).toEqual(pattern(512, 9))
  await layer.unref(top)
  const again = await layer.open('/top', { driver: 'qcow2' })
  const end = await checkNode(again, { leaks: false, errors: false })
  expect([end.corruptions, end.leaks]).toEqual([0, 0])
  expect(await read(again, 100, 512)).toEqual(pattern(512, 9))
  await layer.unref(again)
})

test('row 91: the base is durable before anything is emptied', async () => {
  const order: string[] = []
  const { layer, top } = await setup({
    log: (operation) => order.push(`${operation.kind} ${operation.path}`),
  })
  await top.write(0, cluster, pattern(cluster, 5), 0, 0)
  await top.flush()
  order.length = 0
  await commitNode(top)
  const lastWrite = order.lastIndexOf('write /base')
  const flushed = order.indexOf('flush /base', lastWrite)
  const emptied = order.indexOf('write /top')
  expect(lastWrite).toBeGreaterThanOrEqual(0)
  expect(flushed).toBeGreaterThan(lastWrite)
  expect(emptied).toBeGreaterThan(flushed)
  expect(order.lastIndexOf('flush /top')).toBeGreaterThan(emptied)
  await layer.unref(top)
})

test('row 91: an image whose format cannot be emptied keeps its contents', async () => {
  const { layer, top } = await setup()
  await top.write(0, 512, pattern(512, 5), 0, 0)
  const { state } = top
  if (state?.makeEmpty === undefined) {
    throw new Error('no makeEmpty')
  }
  const real = state.makeEmpty.bind(state)
  state.makeEmpty = () => {
    throw ioError('EIO')
  }
  expect(await failure(() => commitNode(top))).toEqual({
    code: 'EIO',
    message: 'Failed to empty /top: Input/output error',
  })
  expect([await read(top, 0, 512), backing(top).readOnly]).toEqual([pattern(512, 5), true])
  state.makeEmpty = real
  await layer.unref(top)
})

test('row 92: every user with a backing file; the first error ends it', async () => {
  const { layer, host, top } = await setup()
  await create(layer, '/second', { size: 4 * cluster, backing_file: '/other', backing_fmt: 'raw' }).catch(
    () => undefined,
  )
  host.put('/other', pattern(4 * cluster, 2))
  await create(layer, '/second', { size: 4 * cluster, backing_file: '/other', backing_fmt: 'raw' })
  const second = await layer.open('/second', { driver: 'qcow2' }, { write: true })
  const plain = await layer.open('/other', { driver: 'raw' })
  const users: Backend[] = []
  for (const node of [plain, top, second]) {
    const user = new Backend(layer, {
      perm: node.readOnly ? Perm.consistentRead : Perm.write | Perm.consistentRead,
    })
    await user.insert(node)
    users.push(user)
  }
  await top.write(0, 512, pattern(512, 5), 0, 0)
  await second.write(0, 512, pattern(512, 6), 0, 0)
  await commitAll(layer)
  expect(host.contents('/base')?.bytes().subarray(0, 512)).toEqual(pattern(512, 5))
  expect(host.contents('/other')?.bytes().subarray(0, 512)).toEqual(pattern(512, 6))
  await second.write(0, 512, pattern(512, 7), 0, 0)
  top.opBlockers.block('commit-source', { message: 'a test' })
  expect((await failure(() => commitAll(layer))).code).toBe('EBUSY')
  expect(host.contents('/other')?.bytes().subarray(0, 512)).toEqual(pattern(512, 6))
  for (const user of users) {
    await user.close()
  }
  for (const node of [plain, top, second]) {
    await layer.unref(node)
  }
})

test('row 90: what a guest writes meanwhile waits and is not lost', async () => {
  const { layer, top } = await setup({ delay: (operation) => (operation.kind === 'write' ? 3 : 0) })
  const guest = new Backend(layer, { perm: Perm.consistentRead | Perm.write })
  await guest.insert(top)
  await guest.write(0, 512, pattern(512, 5))
  const committing = commitNode(top)
  const writes = Array.from({ length: 8 }, async (_, i) => {
    await new Promise((resolve) => setTimeout(resolve, i))
    await guest.write(i * 512, 512, pattern(512, 6 + i))
  })
  await Promise.all([committing, ...writes])
  for (let i = 0; i < 8; i++) {
    expect(await read(top, i * 512, 512)).toEqual(pattern(512, 6 + i))
  }
  await guest.close()
  await layer.unref(top)
})
