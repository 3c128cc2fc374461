import { expect, test } from 'vitest'
import {
  type BlockLayer,
  type BlockNode,
  backingDepth,
  backingFilenameOf,
  chainContains,
  changeBackingFile,
  createWithDriver,
  dropIntermediate,
  findBackingImage,
  findBase,
  findOverlay,
  setBacking,
} from '../../src/graph/index.js'
import { failure, memoryLayer, pattern } from './fixtures.js'

/** base.raw <- mid.qcow2 <- top.qcow2, names relative to /d. */
async function chain(): Promise<ReturnType<typeof memoryLayer>> {
  const made = memoryLayer()
  made.host.put('/d/base.raw', pattern(65536, 1))
  await overlay(made.layer, '/d/mid.qcow2', 'base.raw', 'raw')
  await overlay(made.layer, '/d/top.qcow2', 'mid.qcow2', 'qcow2')
  return made
}

async function overlay(layer: BlockLayer, path: string, backing: string, format: string): Promise<void> {
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  await createWithDriver(layer, driver, path, { size: 65536, backing_file: backing, backing_fmt: format })
}

async function head(node: BlockNode): Promise<Uint8Array> {
  const buffer = new Uint8Array(512)
  await node.read(0, 512, buffer, 0, 0)
  return buffer
}

test('row 59: setting a backing node takes a reference and blocks operations on it', async () => {
  const { layer, host } = await chain()
  host.put('/other', new Uint8Array(65536))
  const node = await layer.open('/d/mid.qcow2', { driver: 'qcow2' }, { noBacking: true })
  const other = await layer.open('/other', { driver: 'raw', 'node-name': 'other' })
  await setBacking(node, other)
  expect([node.backing, other.references, node.flags.noBacking]).toEqual([other, 2, false])
  expect(other.opBlockers.reason('resize')?.message).toBe(`node is used as backing hd of '${node.name}'`)
  expect(other.opBlockers.reason('commit-target')).toBeUndefined()
  expect(other.opBlockers.reason('stream')).toBeUndefined()
  const edge = node.child('backing')
  if (edge === undefined) {
    throw new Error('no backing edge')
  }
  edge.frozen = true
  expect((await failure(() => setBacking(node, undefined))).message).toBe(
    `Cannot change frozen 'backing' link from '${node.name}' to 'other'`,
  )
  edge.frozen = false
  await setBacking(node, undefined)
  expect([node.backing, other.references, other.opBlockers.isEmpty]).toEqual([undefined, 1, true])
  await layer.unref(node)
  await layer.unref(other)
})

test('row 60: the backing file comes from the header, from options, or not at all', async () => {
  const { layer, host } = await chain()
  host.put('/else.raw', pattern(65536, 9))
  const node = await layer.open('/d/top.qcow2')
  expect(node.backing?.filename).toBe('/d/mid.qcow2')
  expect(node.backing?.backing?.filename).toBe('/d/base.raw')
  expect(await head(node)).toEqual(pattern(65536, 1).subarray(0, 512))
  await layer.unref(node)
  const overridden = await layer.open('/d/mid.qcow2', {
    driver: 'qcow2',
    backing: { driver: 'raw', file: { driver: 'file', filename: '/else.raw' } },
  })
  expect(await head(overridden)).toEqual(pattern(65536, 9).subarray(0, 512))
  await layer.unref(overridden)
  const none = await layer.open('/d/mid.qcow2', { driver: 'qcow2', backing: null })
  expect([none.backing, [...(await head(none))].every((byte) => byte === 0)]).toEqual([undefined, true])
  await layer.unref(none)
  const empty = await layer.open('/d/mid.qcow2', { driver: 'qcow2', backing: '' })
  expect(host.warnings).toContain('warning: Use of "backing": "" is deprecated; use "backing": null instead')
  await layer.unref(empty)
  const named = await layer.open('/else.raw', { driver: 'raw', 'node-name': 'named' })
  const referring = await layer.open('/d/mid.qcow2', { driver: 'qcow2', backing: 'named' })
  expect(referring.backing).toBe(named)
  await layer.unref(referring)
  await layer.unref(named)
  expect(
    (await failure(() => layer.open('/else.raw', { driver: 'raw', 'backing.driver': 'raw' }))).message,
  ).toContain("Driver doesn't support backing files")
})

test('row 61: backing.* options reach the backing file, and noBacking skips it', async () => {
  const { layer } = await chain()
  const node = await layer.open('/d/top.qcow2', { driver: 'qcow2', 'backing.node-name': 'below' })
  expect(node.backing?.name).toBe('below')
  await layer.unref(node)
  const none = await layer.open('/d/top.qcow2', { driver: 'qcow2' }, { noBacking: true })
  expect([none.backing, none.backingFile]).toEqual([undefined, 'mid.qcow2'])
  await layer.unref(none)
})

test('row 62: changing the recorded backing file', async () => {
  const { layer } = await chain()
  const node = await layer.open('/d/top.qcow2', { driver: 'qcow2' }, { write: true, noBacking: true })
  expect((await failure(() => changeBackingFile(node, undefined, 'raw'))).code).toBe('EINVAL')
  expect((await failure(() => changeBackingFile(node, 'x', undefined, true))).code).toBe('EINVAL')
  await changeBackingFile(node, 'base.raw', 'raw')
  expect([node.backingFile, node.backingFormat]).toEqual(['base.raw', 'raw'])
  expect((await failure(() => changeBackingFile(node, 'x'.repeat(2000), 'raw'))).code).toMatch(
    /EINVAL|ENOSPC/,
  )
  await layer.unref(node)
  const again = await layer.open('/d/top.qcow2')
  expect(again.backing?.filename).toBe('/d/base.raw')
  const raw = again.backing
  if (raw === undefined) {
    throw new Error('no backing')
  }
  expect((await failure(() => changeBackingFile(raw, 'x', 'raw'))).code).toBe('ENOTSUP')
  await layer.unref(again)
  expect((await failure(() => changeBackingFile(again, 'x', 'raw'))).code).toBe('ENOMEDIUM')
})

test('row 63: overlay and base within a chain', async () => {
  const { layer } = await chain()
  const top = await layer.open('/d/top.qcow2')
  const mid = top.backing
  const base = mid?.backing
  expect(findOverlay(top, mid)).toBe(top)
  expect(findOverlay(top, base)).toBe(mid)
  expect(findOverlay(top, top)).toBeUndefined()
  expect(findOverlay(undefined, base)).toBeUndefined()
  expect(findOverlay(mid, top)).toBeUndefined()
  expect(findBase(top)).toBe(base)
  await layer.unref(top)
})

test('row 64: dropping intermediate images relinks and records the new backing file', async () => {
  const { layer } = await chain()
  const top = await layer.open('/d/top.qcow2', { driver: 'qcow2' }, { write: true })
  const mid = top.backing
  const base = mid?.backing
  if (mid === undefined || base === undefined) {
    throw new Error('chain too short')
  }
  expect((await failure(() => dropIntermediate(top, top, base))).code).toBe('EIO')
  expect((await failure(() => dropIntermediate(mid, top, base))).code).toBe('EIO')
  await dropIntermediate(top, mid, base)
  expect([top.backing, top.backingFile, top.backingFormat]).toEqual([base, '/d/base.raw', 'raw'])
  expect(mid.driver).toBeUndefined()
  await layer.unref(top)
  const again = await layer.open('/d/top.qcow2')
  expect(again.backing?.filename).toBe('/d/base.raw')
  await layer.unref(again)
})

test('row 65: containment, depth and full backing name', async () => {
  const { layer } = await chain()
  const top = await layer.open('/d/top.qcow2')
  const base = top.backing?.backing
  expect([chainContains(top, base), chainContains(base, top), chainContains(top, top)]).toEqual([
    true,
    false,
    true,
  ])
  expect([chainContains(undefined, top), chainContains(top, undefined)]).toEqual([false, false])
  expect([backingDepth(top), base && backingDepth(base)]).toEqual([2, 0])
  expect(backingFilenameOf(top)).toBe('/d/mid.qcow2')
  await layer.unref(top)
})

test('row 66: looking up by device, then by node name', async () => {
  const { layer } = await chain()
  const { Backend } = await import('../../src/graph/index.js')
  const empty = new Backend(layer, { name: 'drive0' })
  expect(await failure(() => layer.lookup('drive0', undefined))).toEqual({
    code: 'ENOMEDIUM',
    message: "Device 'drive0' has no medium",
  })
  const node = await layer.open('/d/base.raw', { driver: 'raw', 'node-name': 'n' })
  await empty.insert(node)
  expect(layer.lookup('drive0', undefined)).toBe(node)
  expect(layer.lookup(undefined, 'n')).toBe(node)
  expect((await failure(() => layer.lookup('x', 'y'))).message).toBe(
    "Cannot find device='x' nor node-name='y'",
  )
  expect((await failure(() => layer.lookup(undefined, 'y'))).message).toBe(
    "Cannot find device='' nor node-name='y'",
  )
  await empty.close()
  await layer.unref(node)
})

test('row 67: finding an image of the chain by name', async () => {
  const { layer } = await chain()
  const top = await layer.open('/d/top.qcow2')
  expect(findBackingImage(top, 'base.raw')).toBe(top.backing?.backing)
  expect(findBackingImage(top, '/d/mid.qcow2')).toBe(top.backing)
  expect(findBackingImage(top, '/d/../d/mid.qcow2')).toBe(top.backing)
  expect(findBackingImage(top, 'nope')).toBeUndefined()
  expect(findBackingImage(top, undefined)).toBeUndefined()
  expect(findBackingImage(undefined, 'x')).toBeUndefined()
  await layer.unref(top)
})

test('row 68: a bad backing format and a missing backing file are told apart', async () => {
  const { layer, host } = await chain()
  await overlay(layer, '/d/lost.qcow2', 'gone.raw', 'raw')
  expect((await failure(() => layer.open('/d/lost.qcow2'))).message).toBe(
    "Could not open backing file: Could not open '/d/gone.raw': No such file or directory",
  )
  await layer.unref(await layer.open('/d/lost.qcow2', {}, { noBacking: true, noIo: true }))
  await overlay(layer, '/d/odd.qcow2', 'base.raw', 'raw')
  const odd = await layer.open('/d/odd.qcow2', {}, { write: true, noBacking: true })
  await changeBackingFile(odd, 'base.raw', 'nosuch')
  await layer.unref(odd)
  expect((await failure(() => layer.open('/d/odd.qcow2'))).message).toBe(
    "Could not open backing file: Unknown driver 'nosuch'",
  )
  await layer.unref(await layer.open('/d/odd.qcow2', {}, { noBacking: true }))
  expect([...layer.nodes]).toEqual([])
  await overlay(layer, '/d/loop.qcow2', 'loop.qcow2', 'qcow2')
  const loop = await failure(() => layer.open('/d/loop.qcow2'))
  expect(loop.message).toContain("Backing file '/d/loop.qcow2' creates an infinite loop.")
  expect([...layer.nodes]).toEqual([])
  expect(host.contents('/d/loop.qcow2')?.locks).toEqual([])
})
