import { describe, expect, test } from 'vitest'
import { ioError } from '../../src/errors/index.js'
import {
  Backend,
  type BlockNode,
  createWithDriver,
  Perm,
  ReopenQueue,
  reopenNode,
  reopenSetReadOnly,
} from '../../src/graph/index.js'
import type { MemoryOperation } from '../../src/testing/index.js'
import { failure, memoryLayer, pattern, toyFormat } from './fixtures.js'

/** A chain of a raw base and a qcow2 overlay with the backing file's name in it. */
async function chain(options: Parameters<typeof memoryLayer>[0] = {}) {
  const made = memoryLayer(options)
  made.host.put('/base', pattern(65536, 1))
  made.host.put('/other', pattern(65536, 2))
  const driver = made.layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(made.layer, driver, '/top', {
    size: 65536,
    backing_file: '/base',
    backing_fmt: 'raw',
  })
  const open = (extra = {}, write = true) =>
    made.layer.open('/top', { driver: 'qcow2', 'node-name': 'top', ...extra }, { write })
  return { ...made, open }
}

function part(node: BlockNode, ...names: string[]): BlockNode {
  let at = node
  for (const name of names) {
    const below = at.child(name)?.node
    if (below === undefined) {
      throw new Error(`no ${name}`)
    }
    at = below
  }
  return at
}

async function contents(node: BlockNode): Promise<number> {
  const buffer = new Uint8Array(512)
  await node.read(0, 512, buffer, 0, 0)
  return [1, 2, 3].find((seed) => buffer.every((byte, i) => byte === pattern(512, seed)[i])) ?? -1
}

describe('row 78: the queue', () => {
  test('row 78: given options win over explicit old ones, these over inherited ones, these over old effective ones', async () => {
    const { layer, open } = await chain()
    const node = await open({ file: { discard: 'off' }, 'detect-zeroes': 'on' })
    const file = part(node, 'file')
    expect([file.unmapAllowed, file.readOnly, node.detectZeroes]).toEqual([false, false, 'on'])
    await reopenNode(node, { 'read-only': true, 'cache.no-flush': true })
    // The access mode is inherited, the explicit discard option of the file is not overridden by
    // what would be inherited, and options nobody mentions stay.
    expect([node.readOnly, file.readOnly, node.noFlush, file.noFlush]).toEqual([true, true, true, true])
    expect([file.unmapAllowed, node.detectZeroes]).toEqual([false, 'on'])
    await reopenNode(node, { 'file.discard': 'unmap' })
    expect([file.unmapAllowed, file.noFlush, file.explicitOptions.get('discard')]).toEqual([
      true,
      true,
      'unmap',
    ])
    await layer.unref(node)
  })

  test('row 78: without keeping old options what is not given goes back to its default', async () => {
    const { layer, open } = await chain()
    const node = await open({
      'detect-zeroes': 'on',
      'lazy-refcounts': false,
      backing: { 'node-name': 'base' },
    })
    const file = part(node, 'file').name
    await reopenNode(node, { driver: 'qcow2', file, backing: 'base', 'read-only': true }, false)
    expect([node.readOnly, node.detectZeroes, node.options.has('lazy-refcounts')]).toEqual([
      true,
      'off',
      false,
    ])
    await layer.unref(node)
  })

  test('row 78: children that inherit follow, others do not, and options for others are refused', async () => {
    const { layer, open } = await chain()
    await layer.open('/base', { driver: 'raw', 'node-name': 'own' })
    const node = await open({ backing: 'own' }, false)
    const queue = new ReopenQueue(layer).add(node, { 'cache.no-flush': true })
    expect(queue.nodes).toEqual([node, part(node, 'file')])
    await queue.run()
    expect([node.noFlush, part(node, 'file').noFlush, part(node, 'backing').noFlush]).toEqual([
      true,
      true,
      false,
    ])
    expect(await failure(() => reopenNode(node, { 'backing.read-only': false }))).toEqual({
      code: 'EINVAL',
      message: "Cannot change the option 'backing.read-only'",
    })
    await layer.closeAll()
  })

  test('row 78: a node queued twice is reopened once with both sets of options', async () => {
    const { layer, open } = await chain()
    const node = await open()
    const file = part(node, 'file')
    const queue = new ReopenQueue(layer)
      .add(node, { 'read-only': true, 'detect-zeroes': 'on' })
      .add(node, { 'detect-zeroes': 'off' })
      .add(file, { 'cache.no-flush': true })
    expect(queue.nodes).toEqual([node, file, part(node, 'backing'), part(node, 'backing', 'file')])
    await queue.run()
    expect([node.readOnly, node.detectZeroes, file.readOnly, file.noFlush]).toEqual([true, 'off', true, true])
    await layer.unref(node)
  })
})

describe('row 79: all or nothing', () => {
  test('row 79: a failure in any node leaves every node exactly as it was', async () => {
    const refusing = toyFormat('refusing', 0, {
      load: () => ({
        open: ({ file }) => ({
          length: file.node.length,
          direct: { read: (...args) => file.node.read(...args) },
          close: () => undefined,
        }),
      }),
    })
    const { layer, open } = await chain({ drivers: [refusing] })
    const node = await open()
    const bad = await layer.open('/other', { driver: 'refusing', 'node-name': 'bad' })
    const all = [node, part(node, 'file'), part(node, 'backing'), part(node, 'backing', 'file')]
    const look = () =>
      all.map((one) => ({
        flags: { ...one.flags },
        options: [...one.options.entries()],
        explicit: [...one.explicitOptions.entries()],
        state: [one.readOnly, one.noFlush, one.unmapAllowed, one.detectZeroes, one.references],
        edges: one.parents.map((edge) => [edge.perm, edge.shared, edge.name]),
        backing: one.backing,
      }))
    const before = look()
    const queue = new ReopenQueue(layer)
      .add(node, { 'read-only': true, 'cache.no-flush': true, 'detect-zeroes': 'on', backing: null })
      .add(bad, { 'cache.no-flush': true })
    expect(await failure(() => queue.run())).toEqual({
      code: 'ENOTSUP',
      message: "Block format 'refusing' used by node 'bad' does not support reopening files",
    })
    expect(look()).toEqual(before)
    await node.write(0, 512, pattern(512, 3), 0, 0)
    expect(await contents(node)).toBe(3)
    await layer.closeAll()
  })

  test('row 79: drains, flushes, then prepares: what a request in flight writes is not lost', async () => {
    const log: MemoryOperation[] = []
    const { layer, open, host } = await chain({
      delay: (operation) => (operation.kind === 'write' ? 20 : 0),
      log: (operation) => log.push(operation),
    })
    const top = await open()
    const backend = new Backend(layer, { perm: Perm.consistentRead | Perm.write })
    await backend.insert(top)
    const request = backend.write(0, 512, pattern(512, 3))
    const reopening = reopenNode(top, { 'l2-cache-size': 65536 })
    const held = backend.write(512, 512, pattern(512, 2))
    await Promise.all([request, reopening, held])
    const buffer = new Uint8Array(1024)
    await backend.read(0, 1024, buffer)
    expect(buffer).toEqual(Uint8Array.from([...pattern(512, 3), ...pattern(512, 2)]))
    await backend.close()
    await layer.unref(top)
    expect(host.contents('/top')).toBeDefined()
    expect(log.some((operation) => operation.kind === 'flush' && operation.path === '/top')).toBe(true)
  })

  test('row 79: a flush that fails is told as such and nothing changes', async () => {
    let broken = false
    const { layer, open } = await chain({
      fault: (operation) => (broken && operation.kind === 'flush' ? 'EIO' : undefined),
    })
    const node = await open()
    await node.write(0, 512, pattern(512, 3), 0, 0)
    broken = true
    expect(await failure(() => reopenSetReadOnly(node, true))).toEqual({
      code: 'EIO',
      message: 'Error flushing drive: Input/output error',
    })
    expect(node.readOnly).toBe(false)
    broken = false
    await layer.unref(node).catch(() => undefined)
  })

  test('row 79: permissions that somebody else holds stand in the way', async () => {
    const { layer, open } = await chain()
    const node = await open()
    const backend = new Backend(layer, { name: 'd', perm: Perm.consistentRead | Perm.write })
    await backend.insert(node)
    expect((await failure(() => reopenSetReadOnly(node, true))).message).toBe('Block node is read-only')
    expect([node.readOnly, part(node, 'file').readOnly]).toEqual([false, false])
    await backend.write(0, 512, pattern(512, 3))
    await backend.close()
    await layer.unref(node)
  })
})

describe('row 80: checks', () => {
  test('row 80: texts', async () => {
    const { layer, open } = await chain()
    const node = await open()
    await layer.open('/other', { driver: 'raw', 'node-name': 'other' })
    const text = async (options: Parameters<typeof reopenNode>[1], keep = true) =>
      (await failure(() => reopenNode(node, options, keep))).message
    expect(await text({ driver: 'raw' })).toBe("Cannot change the option 'driver'")
    expect(await text({ 'node-name': 'x' })).toBe("Cannot change the option 'node-name'")
    expect(await text({ foo: 'bar' })).toBe("Cannot change the option 'foo'")
    expect(await text({ 'file.filename': '/x' })).toBe("Cannot change the option 'filename'")
    expect(await text({ 'file.locking': 'off' })).toBe("Cannot change the option 'locking'")
    expect(await text({ discard: 'perhaps' })).toBe('Invalid discard option')
    expect(await text({ backing: 'nosuch' })).toBe("Cannot find device='' nor node-name='nosuch'")
    expect(await text({ backing: 'top' })).toBe("Making 'top' a backing child of 'top' would create a cycle")
    expect(await text({ file: 'top' })).toBe("Making 'top' a file child of 'top' would create a cycle")
    expect(await text({ 'cache-size': '32k', 'l2-cache-size': '64k' })).toBe(
      'l2-cache-size may not exceed cache-size',
    )
    expect(await text({ 'overlap-check': 'most' })).toBe(
      "Unsupported value 'most' for qcow2 option 'overlap-check'. " +
        'Allowed are any of the following: none, constant, cached, all',
    )
    const file = part(node, 'file').name
    expect(await text({ driver: 'qcow2', file }, false)).toBe("backing is missing for 'top'")
    expect(await text({ driver: 'qcow2', backing: null, 'file.driver': 'file' }, false)).toBe(
      "Option 'filename' cannot be reset to its default value",
    )
    const raw = layer.findNode('other')
    if (raw === undefined) {
      throw new Error('no node')
    }
    expect((await failure(() => reopenNode(raw, { backing: 'top' }))).message).toBe(
      "Driver 'raw' of node 'other' does not support backing files",
    )
    const backing = node.child('backing')
    if (backing === undefined) {
      throw new Error('no backing')
    }
    backing.frozen = true
    expect(await text({ backing: 'other' })).toBe(
      `Cannot change frozen 'backing' link from 'top' to '${backing.node.name}'`,
    )
    backing.frozen = false
    node.copyOnRead = 1
    expect(await text({ 'read-only': true })).toBe("Can't set node 'top' to r/o with copy-on-read enabled")
    node.copyOnRead = 0
    await layer.closeAll()
  })

  test('row 80: a driver that says no without words', async () => {
    const mute = toyFormat('mute', 0, {
      load: () => ({
        open: ({ file }) => ({
          length: file.node.length,
          direct: { read: (...args) => file.node.read(...args) },
          prepareReopen: () => {
            throw ioError('EIO')
          },
          close: () => undefined,
        }),
      }),
    })
    const { layer, host } = memoryLayer({ drivers: [mute] })
    host.put('/m', new Uint8Array(512))
    const node = await layer.open('/m', { driver: 'mute' })
    expect(await failure(() => reopenNode(node, {}))).toEqual({
      code: 'EIO',
      message: "failed while preparing to reopen image '/m'",
    })
    await layer.unref(node)
  })

  test('row 80: backing and file are replaced by node name', async () => {
    const { layer, open } = await chain()
    const node = await open()
    await layer.open('/other', { driver: 'raw', 'node-name': 'other' })
    const old = part(node, 'backing')
    expect(await contents(node)).toBe(1)
    await reopenNode(node, { backing: 'other' })
    expect([await contents(node), part(node, 'backing').name, layer.nodes.has(old)]).toEqual([
      2,
      'other',
      false,
    ])
    await reopenNode(node, { backing: null })
    const buffer = new Uint8Array(512)
    await node.read(0, 512, buffer, 0, 0)
    expect([node.backing, buffer.every((byte) => byte === 0)]).toEqual([undefined, true])
    await reopenNode(node, { backing: 'other' })
    // The same image through another node: what the driver caches must follow the edge.
    const file = part(node, 'file')
    const copy = await layer.open(undefined, {
      driver: 'raw',
      'node-name': 'window',
      file: file.name,
      'read-only': false,
    })
    await reopenNode(node, { file: copy.name })
    expect([part(node, 'file'), part(node, 'file', 'file')]).toEqual([copy, file])
    await node.write(0, 512, pattern(512, 3), 0, 0)
    expect(await contents(node)).toBe(3)
    await layer.closeAll()
    const again = await open()
    expect(await contents(again)).toBe(3)
    await layer.unref(again)
  })
})

describe('row 81: what a commit changes', () => {
  test('row 81: options, flags, modes and limits', async () => {
    const { layer, open } = await chain()
    const node = await open()
    const file = part(node, 'file')
    await reopenNode(node, {
      'cache.direct': true,
      'cache.no-flush': true,
      'detect-zeroes': 'on',
      discard: 'unmap',
    })
    expect([file.limits.requestAlignment, node.noFlush, node.detectZeroes, node.unmapAllowed]).toEqual([
      512,
      true,
      'on',
      true,
    ])
    expect([node.options.get('cache.direct'), node.explicitOptions.get('cache.direct')]).toEqual([true, true])
    expect([file.options.get('cache.direct'), file.explicitOptions.has('cache.direct')]).toEqual([
      true,
      false,
    ])
    await node.write(3, 100, pattern(100, 3), 0, 0)
    await reopenNode(node, { 'cache.direct': false })
    expect(file.limits.requestAlignment).toBe(1)
    await layer.unref(node)
  })

  test('row 81: a window of a raw image moves', async () => {
    const { layer, host } = memoryLayer()
    host.put('/r', Uint8Array.from([...pattern(512, 1), ...pattern(512, 2)]))
    const node = await layer.open('/r', { driver: 'raw' })
    await reopenNode(node, { offset: 512 })
    expect([node.length, await contents(node)]).toEqual([512, 2])
    expect(JSON.parse(node.filename.slice('json:'.length))).toEqual({
      driver: 'raw',
      offset: 512,
      file: { driver: 'file', filename: '/r' },
    })
    expect((await failure(() => reopenNode(node, { offset: 4096 }))).message).toBe(
      'Offset (4096) cannot be greater than size of the containing file (1024)',
    )
    expect(await contents(node)).toBe(2)
    await layer.unref(node)
  })

  test('row 81: an image becomes read-only complete in its file and writable again', async () => {
    const { layer, host, open } = await chain()
    const node = await open()
    await node.write(0, 512, pattern(512, 3), 0, 0)
    await reopenSetReadOnly(node, true)
    // Another program may read it now.
    const copy = memoryLayer()
    copy.host.put('/top', host.contents('/top')?.bytes())
    copy.host.put('/base', pattern(65536, 1))
    const second = await copy.layer.open('/top', { driver: 'qcow2' })
    expect(await contents(second)).toBe(3)
    await copy.layer.unref(second)
    expect(await failure(() => node.write(0, 512, pattern(512, 2), 0, 0))).toMatchObject({ code: 'EPERM' })
    await reopenSetReadOnly(node, false)
    await node.write(0, 512, pattern(512, 2), 0, 0)
    expect(await contents(node)).toBe(2)
    await layer.unref(node)
  })
})

test.each([
  ['dirty', 1, 'qcow2: Image is dirty; it must be opened for writing to be repaired'],
  ['corrupt', 2, 'qcow2: Image is corrupt; cannot be opened read/write'],
])('row 80: an image that is %s does not become writable', async (_name, bit, message) => {
  const { layer, host, open } = await chain()
  const bytes = host.contents('/top')?.bytes() ?? new Uint8Array(0)
  bytes[79] = bit
  host.put('/top', bytes)
  const node = await open({}, false)
  expect(await failure(() => reopenSetReadOnly(node, false))).toEqual({ code: 'EACCES', message })
  expect([node.readOnly, (node.file as BlockNode).readOnly]).toEqual([true, true])
  await layer.unref(node)
})

test('row 82: one node, and the helper for its access mode', async () => {
  const { layer, open } = await chain()
  const node = await open({}, false)
  const base = part(node, 'backing')
  expect([base.readOnly, part(base, 'file').readOnly]).toEqual([true, true])
  await reopenSetReadOnly(base, false)
  expect([base.readOnly, part(base, 'file').readOnly, node.readOnly]).toEqual([false, false, true])
  await reopenSetReadOnly(base, true)
  expect([base.readOnly, part(base, 'file').readOnly]).toEqual([true, true])
  await layer.unref(node)
})
