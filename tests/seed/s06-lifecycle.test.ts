import { expect, test } from 'vitest'
import { blockError } from '../../src/errors/index.js'
import { addSecret } from '../../src/formatkit/crypto/index.js'
import {
  Backend,
  inheritOptions,
  noFlags,
  parseCacheMode,
  parseDiscard,
  Role,
} from '../../src/graph/index.js'
import { createImage } from '../../src/image/index.js'
import { OptionDict } from '../../src/options/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { failure, memoryLayer, pattern, toyFormat } from './fixtures.js'

test('row 41: discard words', async () => {
  expect(['off', 'ignore', 'on', 'unmap'].map(parseDiscard)).toEqual([false, false, true, true])
  expect((await failure(() => parseDiscard('x'))).message).toBe('Invalid discard option')
})

test('row 42: cache modes', () => {
  const mode = (name: string) => {
    const found = parseCacheMode(name)
    return found && [found.direct, found.noFlush, found.writeThrough]
  }
  expect(mode('none')).toEqual([true, false, false])
  expect(mode('off')).toEqual([true, false, false])
  expect(mode('directsync')).toEqual([true, false, true])
  expect(mode('writeback')).toEqual([false, false, false])
  expect(mode('unsafe')).toEqual([false, true, false])
  expect(mode('writethrough')).toEqual([false, false, true])
  expect(mode('sideways')).toBeUndefined()
  expect(mode('toString')).toBeUndefined()
})

const parentOptions = new OptionDict([
  ['cache.direct', true],
  ['cache.no-flush', true],
  ['force-share', true],
  ['read-only', false],
  ['auto-read-only', true],
])
const parentFlags = {
  ...noFlags,
  write: true,
  snapshot: true,
  noBacking: true,
  copyOnRead: true,
  noIo: true,
  temporary: true,
}

test('row 43: a file child is a protocol, unmaps, and inherits cache and read-only', () => {
  const options = new OptionDict()
  const flags = inheritOptions(Role.image, true, parentFlags, parentOptions, options)
  expect(flags).toMatchObject({
    protocol: true,
    unmap: true,
    snapshot: false,
    noBacking: false,
    copyOnRead: false,
    noIo: false,
    temporary: true,
  })
  expect(Object.fromEntries(options.entries())).toEqual({
    'cache.direct': true,
    'cache.no-flush': true,
    'force-share': true,
    'read-only': false,
    'auto-read-only': true,
    discard: 'unmap',
  })
  const own = new OptionDict([
    ['cache.direct', false],
    ['discard', 'ignore'],
  ])
  inheritOptions(Role.image, true, parentFlags, parentOptions, own)
  expect([own.get('cache.direct'), own.get('discard')]).toEqual([false, 'ignore'])
})

test('row 44: a data child of something that is not a format may be any format', () => {
  expect(
    inheritOptions(Role.data, false, { ...parentFlags, protocol: true }, parentOptions, new OptionDict())
      .protocol,
  ).toBe(false)
  expect(inheritOptions(Role.data, true, parentFlags, parentOptions, new OptionDict()).protocol).toBe(true)
})

test('row 45: a backing child is read-only unless told otherwise', () => {
  const options = new OptionDict()
  const flags = inheritOptions(Role.cow, true, parentFlags, parentOptions, options)
  expect([options.get('read-only'), options.get('auto-read-only'), options.get('cache.direct')]).toEqual([
    true,
    false,
    true,
  ])
  expect(flags).toMatchObject({ protocol: false, temporary: false, snapshot: false, copyOnRead: false })
  const explicit = new OptionDict([['read-only', false]])
  inheritOptions(Role.cow, true, parentFlags, parentOptions, explicit)
  expect(explicit.get('read-only')).toBe(false)
})

test('row 46: what is internal to the graph does not reach the driver; read-only follows write', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  const node = await layer.open('/a', { driver: 'raw' })
  expect([node.readOnly, node.file?.readOnly, node.file?.flags.snapshot]).toEqual([true, true, false])
  await layer.unref(node)
  const writable = await layer.open('/a', { driver: 'raw' }, { write: true })
  expect([writable.readOnly, writable.flags.allowWrite, writable.file?.readOnly]).toEqual([
    false,
    true,
    false,
  ])
  await layer.unref(writable)
})

test('row 47: the read-only option decides, the file child is optional for drivers without one', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  const node = await layer.open('/a', { driver: 'raw', 'read-only': true }, { write: true })
  expect(node.flags.write).toBe(false)
  await layer.unref(node)
  const none = await layer.open(undefined, { driver: 'null-co', size: 1024 })
  expect(none.children).toEqual([])
  await layer.unref(none)
})

test('row 48: a format cannot be the protocol level, and needs a file', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  expect((await failure(() => layer.open(undefined, { driver: 'raw' }))).message).toBe(
    'A block device must be specified for "file"',
  )
  const node = await layer.open('/a', { driver: 'raw' })
  const past = pattern(1024, 1)
  await node.read(512, 512, past, 0, 0)
  expect(past.subarray(0, 512)).toEqual(new Uint8Array(512))
  await layer.unref(node)
})

test('row 49: copy-on-read needs a writable node', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  expect(await failure(() => layer.open('/a', { driver: 'raw' }, { copyOnRead: true }))).toEqual({
    code: 'EINVAL',
    message: "Can't use copy-on-read on read-only device",
  })
  const node = await layer.open('/a', { driver: 'raw' }, { copyOnRead: true, write: true })
  expect([node.copyOnRead, node.file?.copyOnRead]).toEqual([1, 0])
  await layer.unref(node)
})

test('row 50: a driver that only gives an errno gets the usual text, and nothing is left', async () => {
  const { layer, host } = memoryLayer()
  expect(await failure(() => layer.open('/gone'))).toEqual({
    code: 'ENOENT',
    message: "Could not open '/gone': No such file or directory",
  })
  const bad = memoryLayer({
    drivers: [
      toyFormat('bad', 0, {
        load: () => ({
          open: () => {
            throw blockError('EIO', 'Input/output error')
          },
        }),
      }),
    ],
  })
  bad.host.put('/a', new Uint8Array(512))
  expect((await failure(() => bad.layer.open('/a', { driver: 'bad' }))).message).toBe(
    "Could not open '/a': Input/output error",
  )
  expect([...layer.nodes, ...bad.layer.nodes]).toEqual([])
  expect(host.paths).toEqual([])
})

test('row 51: opening never prints the deprecation of encrypted images; without a key they are refused', async () => {
  const { layer, host } = memoryLayer({ ciphers: createNodeHost().ciphers })
  addSecret(layer, { id: 'key', format: 'raw', data: 'swordfish' })
  await createImage(layer, {
    filename: '/a',
    format: 'qcow2',
    size: 1 << 20,
    options: 'encrypt.format=aes,encrypt.key-secret=key',
  })
  const node = await layer.open('/a', { driver: 'qcow2', 'encrypt.key-secret': 'key' })
  expect(host.warnings).toEqual([])
  await layer.unref(node)
  expect((await failure(() => layer.open('/a', { driver: 'qcow2' }))).message).toBe(
    "Parameter 'encrypt.key-secret' is required for cipher",
  )
})

test('row 52: lengths are rounded up to a sector, and too large ones are refused', async () => {
  const { layer, host } = memoryLayer({
    drivers: [
      toyFormat('huge', 0, {
        load: () => ({
          open: () => ({ length: 2 ** 60, direct: { read: () => undefined }, close: () => undefined }),
        }),
      }),
    ],
  })
  host.put('/a', new Uint8Array(1000))
  const node = await layer.open('/a', { driver: 'raw' })
  expect([node.length, node.file?.length]).toEqual([1024, 1024])
  await layer.unref(node)
  const result = await failure(() => layer.open('/a', { driver: 'huge' }))
  expect(result.code).toBe('EFBIG')
  expect(result.message).toMatch(/^Could not refresh total sector count: .*9007199254740480/)
})

test('row 53: there is no run state that refuses an open', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  await layer.unref(await layer.open('/a', { driver: 'raw' }))
  expect([...layer.nodes]).toEqual([])
})

test('row 54: a failed open leaves no node, no name and no open file', async () => {
  const { layer, host } = memoryLayer()
  const contents = host.put('/a', new Uint8Array(512))
  for (let i = 0; i < 3; i++) {
    expect(
      (await failure(() => layer.open('/a', { driver: 'raw', 'node-name': 'n', bogus: 1 }, { write: true })))
        .message,
    ).toContain('bogus')
  }
  expect(layer.findNode('n')).toBeUndefined()
  expect([...layer.nodes]).toEqual([])
  expect(contents.locks).toEqual([])
})

test('row 55: close waits, flushes, tells listeners, closes the driver, then lets go of backing and file', async () => {
  const events: string[] = []
  const { layer, host } = memoryLayer({
    drivers: [
      toyFormat('seen', 0, {
        supportsBacking: true,
        load: () => ({
          open: ({ file }) => ({
            length: file.node.length,
            direct: { read: () => undefined, write: () => undefined },
            flushPath: {
              flushToOs: () => {
                events.push('flush')
                return undefined
              },
            },
            close: () => {
              events.push('close')
              return undefined
            },
          }),
        }),
      }),
    ],
  })
  host.put('/a', new Uint8Array(512))
  host.put('/b', new Uint8Array(512))
  const node = await layer.open(
    '/a',
    { driver: 'seen', backing: { driver: 'raw', file: { filename: '/b' } } },
    { write: true },
  )
  const backing = node.backing
  const file = node.file
  node.closeListeners.add(() => events.push('listener'))
  backing?.closeListeners.add(() => events.push('backing'))
  file?.closeListeners.add(() => events.push('file'))
  await layer.unref(node)
  expect(events).toEqual(['flush', 'listener', 'close', 'backing', 'file'])
  expect([node.driver, node.children.length, node.length, node.copyOnRead]).toEqual([undefined, 0, 0, 0])
})

test('row 56: closing the layer closes every root', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  host.put('/b', new Uint8Array(512))
  await Backend.open(layer, '/a', { driver: 'raw' })
  await layer.open('/b', { driver: 'raw' })
  expect(layer.nodes.size).toBe(4)
  await layer.closeAll()
  expect([layer.nodes.size, layer.backends.size]).toEqual([0, 0])
})

test('row 57: references count; nothing is a no-op; the last one closes', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  await layer.unref(undefined)
  const node = await layer.open('/a', { driver: 'raw' })
  layer.ref(node)
  await layer.unref(node)
  expect(node.driver?.name).toBe('raw')
  await layer.unref(node)
  expect(node.driver).toBeUndefined()
  expect((await failure(() => layer.unref(node))).message).toContain('no references left')
})

test('row 58: a new node has one reference and nothing attached', async () => {
  const { layer, host } = memoryLayer()
  host.put('/a', new Uint8Array(512))
  const node = await layer.open('/a', { driver: 'raw' })
  expect([node.references, node.parents.length, node.opBlockers.isEmpty, node.closeListeners.size]).toEqual([
    1,
    0,
    true,
    0,
  ])
  let told = 0
  node.closeListeners.add(() => told++)
  await layer.unref(node)
  expect(told).toBe(1)
})
