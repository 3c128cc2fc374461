import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { addSecret } from '../../src/formatkit/crypto/index.js'
import {
  activateAll,
  activateNode,
  Backend,
  type BlockDriver,
  type BlockLayer,
  createBlockLayer,
  cumulativePermissions,
  inactivateAll,
  inactivateNode,
  isInactive,
  Perm,
  resizeDevice,
  setActive,
  setBacking,
} from '../../src/graph/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { failure, memoryLayer, pattern } from './fixtures.js'

const folder = mkdtempSync(join(tmpdir(), 'blockgraph-inactive-'))

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

interface Noting {
  readonly log: string[]
  length: number
  fail: 'activate' | 'length' | 'inactivate' | undefined
}

/** A format that notes what it is told. */
function noting(to: Noting): BlockDriver {
  return {
    name: 'noting',
    kind: 'format',
    supportsBacking: true,
    options: {},
    load: () => ({
      open: ({ node, file }) => ({
        get length() {
          return to.fail === 'length' ? 2 ** 60 : to.length
        },
        map: {
          resolveRead: (offset, bytes, out) => {
            out.data(bytes, file.node, offset, 0)
            return undefined
          },
          resolveWrite: (offset, bytes, _flags, plan) => {
            plan.inPlace(bytes, file.node, offset)
            return undefined
          },
        },
        inactivate: () => {
          to.log.push(`${node.name} inactivate`)
          if (to.fail === 'inactivate') {
            throw new Error('broken driver')
          }
          return undefined
        },
        invalidate: () => {
          to.log.push(`${node.name} invalidate`)
          if (to.fail === 'activate') {
            throw new Error('cannot read')
          }
          return undefined
        },
        close: () => undefined,
      }),
    }),
  }
}

async function setup() {
  const to: Noting = { log: [], length: 512, fail: undefined }
  const made = memoryLayer({ drivers: [noting(to)] })
  for (const path of ['/a', '/b']) {
    made.host.put(path, pattern(4096, 1))
  }
  const open = (path: string, name: string, options: Record<string, boolean> = {}) =>
    made.layer.open(
      path,
      { driver: 'noting', 'node-name': name, 'file.node-name': `${name}-file`, backing: null, ...options },
      { write: true },
    )
  return { ...made, to, open }
}

test('row 115: images opened while a migration comes in are inactive, as are those with active=off', async () => {
  const { layer, to, open } = await setup()
  layer.incoming = true
  const a = await open('/a', 'a')
  layer.incoming = false
  const b = await open('/b', 'b', { active: false })
  expect([a, a.file, b, b.file].map((node) => node && isInactive(node))).toEqual([true, true, true, true])
  // Nothing is written to them, and nothing promised: the file's other users may do anything.
  expect(a.file && cumulativePermissions(a.file)).toEqual({ perm: Perm.consistentRead, shared: Perm.all })
  const data = new Uint8Array(512)
  await a.read(0, 512, data, 0, 0)
  for (const write of [
    () => a.write(0, 512, data, 0, 0),
    () => a.writeZeroes(0, 512, 0),
    () => a.discard(0, 512),
  ]) {
    expect((await failure(write)).code).toBe('EPERM')
  }
  to.length = 1024
  await activateAll(layer)
  expect([a, a.file, b, b.file].map((node) => node && isInactive(node))).toEqual([false, false, false, false])
  expect([a.length, to.log.toSorted()]).toEqual([1024, ['a invalidate', 'b invalidate']])
  await a.write(0, 512, data, 0, 0)
  await activateNode(a)
  expect(to.log.length).toBe(2)
  await layer.unref(a)
  await layer.unref(b)
  expect((await failure(() => activateNode(a))).code).toBe('ENOMEDIUM')
})

test('row 115: what fails leaves the node inactive: the driver, the length; the rest is not tried', async () => {
  const { layer, to, open } = await setup()
  layer.incoming = true
  const a = await open('/a', 'a')
  const b = await open('/b', 'b')
  to.fail = 'activate'
  expect((await failure(() => activateAll(layer))).message).toBe('cannot read')
  expect([isInactive(a), isInactive(b), to.log]).toEqual([true, true, ['a invalidate']])
  to.fail = 'length'
  expect(await failure(() => activateNode(a))).toEqual({
    code: 'EFBIG',
    message: expect.stringContaining('Could not refresh total sector count: ') as string,
  })
  expect([isInactive(a), a.readOnly, a.file && isInactive(a.file)]).toEqual([true, true, false])
  expect(a.file && cumulativePermissions(a.file).perm).toBe(Perm.consistentRead)
  to.fail = undefined
  await activateAll(layer)
  expect([isInactive(a), isInactive(b)]).toEqual([false, false])
  await layer.unref(a)
  await layer.unref(b)
})

test('row 115: handing over goes from the top down, writes back first and gives up permissions', async () => {
  const { layer, to, open } = await setup()
  const top = await open('/a', 'top')
  const base = await open('/b', 'base', { 'read-only': true })
  await setBacking(top, base)
  const guest = new Backend(layer, {
    name: 'd0',
    perm: Perm.consistentRead | Perm.write,
    shared: Perm.consistentRead,
  })
  await guest.insert(top)
  await guest.write(0, 512, pattern(512, 7))
  expect((await failure(() => inactivateNode(base))).message).toBe('Node has active parent node')
  await inactivateAll(layer)
  expect(to.log).toEqual(['top inactivate', 'base inactivate'])
  expect([top, base, top.file, base.file].every((node) => node && isInactive(node))).toBe(true)
  expect([cumulativePermissions(top), guest.perm]).toEqual([
    { perm: 0, shared: Perm.all },
    Perm.consistentRead | Perm.write,
  ])
  await inactivateAll(layer)
  expect(to.log.length).toBe(2)
  await activateAll(layer)
  expect(cumulativePermissions(top)).toEqual({
    perm: Perm.consistentRead | Perm.write,
    shared: Perm.consistentRead,
  })
  // Children first: a node relies on them.
  expect(to.log.slice(2)).toEqual(['base invalidate', 'top invalidate'])
  await guest.close()
  await layer.unref(top)
  await layer.unref(base)
})

test('row 115: a writer that no guest is behind does not let its node go', async () => {
  const { layer, to, open } = await setup()
  const node = await open('/a', 'n')
  const job = new Backend(layer, { perm: Perm.write })
  await job.insert(node)
  expect(await failure(() => inactivateNode(node))).toEqual({
    code: 'EPERM',
    message: 'Failed to inactivate node: Operation not permitted',
  })
  expect((await failure(() => inactivateAll(layer))).message).toBe(
    'Failed to inactivate all nodes: Operation not permitted',
  )
  expect(isInactive(node)).toBe(false)
  await job.write(0, 512, pattern(512, 1))
  job.forceAllowInactivate = true
  await inactivateNode(node)
  expect((await failure(() => job.write(0, 512, pattern(512, 1)))).code).toBe('EPERM')
  await job.setPermissions(Perm.consistentRead, Perm.all)
  await activateNode(node)
  expect(cumulativePermissions(node).perm).toBe(Perm.consistentRead)
  to.fail = 'inactivate'
  await expect(inactivateNode(node)).rejects.toThrow('broken driver')
  expect(isInactive(node)).toBe(false)
  await job.close()
  await layer.unref(node)
})

test('row 115: what may be built on an inactive node', async () => {
  const { layer, open } = await setup()
  await open('/a', 'n', { active: false })
  const above = (options: Record<string, boolean>) =>
    layer.open(undefined, { driver: 'raw', file: 'n', 'node-name': 'above', ...options })
  expect(await failure(() => above({}))).toEqual({
    code: 'EINVAL',
    message: "Inactive 'n' can't be a file child of active 'above'",
  })
  expect((await failure(() => above({ active: true }))).code).toBe('EINVAL')
  await layer.unref(await above({ active: false }))
  expect(await failure(() => resizeDevice(layer, { nodeName: 'n' }, 4096))).toEqual({
    code: 'EPERM',
    message: "Permission 'resize' unavailable on inactive node",
  })
  const target = new Backend(layer, { perm: Perm.write })
  const n = layer.findNode('n')
  if (n === undefined) {
    throw new Error('no node')
  }
  expect((await failure(() => target.insert(n))).message).toBe(
    "Permission 'write' unavailable on inactive node",
  )
  await target.close()
  const reader = new Backend(layer, { perm: Perm.consistentRead })
  await reader.insert(n)
  expect((await failure(() => reader.setPermissions(Perm.write, Perm.all))).message).toBe(
    'Block node is read-only',
  )
  await reader.close()
  await setActive(layer, 'n', true)
  await setActive(layer, 'n', false)
  await setActive(layer, undefined, true)
  expect(isInactive(n)).toBe(false)
  expect((await failure(() => setActive(layer, 'gone', true))).message).toBe(
    "Failed to find node with node-name='gone'",
  )
  await layer.closeAll()
})

test('row 115: a device that is attached while a migration comes in gets its permissions later', async () => {
  const { layer, open } = await setup()
  layer.incoming = true
  const node = await open('/a', 'n')
  const guest = new Backend(layer, { name: 'd0', perm: Perm.consistentRead | Perm.write })
  guest.device.attach({ id: 'disk', ops: {} })
  await guest.insert(node)
  expect(cumulativePermissions(node).perm).toBe(0)
  layer.incoming = false
  await activateAll(layer)
  expect(cumulativePermissions(node).perm).toBe(Perm.consistentRead | Perm.write)
  await guest.write(0, 512, pattern(512, 2))
  await guest.close()
  await layer.unref(node)
})

function qemuIo(path: string, ...commands: string[]): string {
  return execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

function nodeLayer(): BlockLayer {
  return createBlockLayer({ host: createNodeHost(), drivers: allDrivers })
}

test('row 115: a qcow2 image goes to and fro between us and QEMU, each with its locks and without the old tables', async () => {
  const path = join(folder, 'a.qcow2')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M'])
  const layer = nodeLayer()
  const device = await Backend.open(
    layer,
    path,
    { 'node-name': 'q' },
    { write: true, resize: true },
    { name: 'd0' },
  )
  const buffer = new Uint8Array(65536)
  const all = (value: number) => {
    expect(buffer.every((byte) => byte === value)).toBe(true)
  }
  await device.write(0, 65536, buffer.fill(1))
  expect(() => qemuIo(path, 'write -P 9 0 64k')).toThrow('Failed to get')
  for (const round of [1, 2]) {
    await inactivateAll(layer)
    expect((await failure(() => device.write(0, 65536, buffer))).code).toBe('EPERM')
    // What we wrote is there, although the image is still open here.
    expect(qemuIo(path, `read -P ${round === 1 ? 1 : 12} 0 64k`)).not.toContain('failed')
    qemuIo(path, `write -P ${round + 1} 64k 64k`, `write -P ${round + 20} 512k 64k`, `truncate ${1 + round}M`)
    expect(device.length).toBe(round << 20)
    await activateAll(layer)
    expect(device.length).toBe((1 + round) << 20)
    expect(() => qemuIo(path, 'write -P 9 0 64k')).toThrow('Failed to get')
    await device.read(65536, 65536, buffer)
    all(round + 1)
    await device.read(512 << 10, 65536, buffer)
    all(round + 20)
    await device.write(0, 65536, buffer.fill(round + 11))
    await device.write(round << 20, 65536, buffer.fill(round + 30))
  }
  await layer.closeAll()
  expect(execFileSync('qemu-img', ['check', path], { encoding: 'utf8' })).toContain('No errors were found')
  expect(qemuIo(path, 'read -P 13 0 64k', 'read -P 32 2M 64k', 'read -P 31 1M 64k')).not.toContain('failed')
})

test('row 115: stored bitmaps go with the image', async () => {
  const path = join(folder, 'c.qcow2')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M'])
  execFileSync('qemu-img', ['bitmap', '--add', path, 'b0'])
  const layer = nodeLayer()
  const node = await layer.open(path, { 'node-name': 'q' }, { write: true })
  const names = () => [...node.dirtyBitmaps].map((bitmap) => [bitmap.name, bitmap.count > 0]).toSorted()
  await node.write(0, 512, pattern(512, 5), 0, 0)
  expect(names()).toEqual([['b0', true]])
  await inactivateAll(layer)
  expect(names()).toEqual([])
  const info = () => execFileSync('qemu-img', ['info', path], { encoding: 'utf8' })
  expect(info()).toContain('name: b0')
  expect(info()).not.toContain('in-use')
  execFileSync('qemu-img', ['bitmap', '--add', path, 'b1'])
  await activateAll(layer)
  expect(names()).toEqual([
    ['b0', true],
    ['b1', false],
  ])
  await node.write(65536, 512, pattern(512, 5), 0, 0)
  await layer.unref(node)
  const incoming = await layer.open(path, { active: false }, { write: true })
  expect([...incoming.dirtyBitmaps]).toEqual([])
  await layer.unref(incoming)
  expect(info()).not.toContain('in-use')
  expect(execFileSync('qemu-img', ['check', path], { encoding: 'utf8' })).toContain('No errors were found')
})

test('row 115: an encrypted image comes back with its key', async () => {
  const path = join(folder, 'd.qcow2')
  const secret = ['--object', 'secret,id=s,data=swordfish']
  const options = 'encrypt.format=aes,encrypt.key-secret=s'
  execFileSync('qemu-img', ['create', '-q', ...secret, '-f', 'qcow2', '-o', options, path, '1M'])
  const layer = nodeLayer()
  addSecret(layer, { id: 's', format: 'raw', data: 'swordfish' })
  const node = await layer.open(
    path,
    { driver: 'qcow2', 'encrypt.key-secret': 's', active: false },
    { write: true },
  )
  const image = `driver=qcow2,encrypt.key-secret=s,file.driver=file,file.filename=${path}`
  execFileSync('qemu-io', [...secret, '--image-opts', image, '-c', 'write -P 7 64k 64k'], { stdio: 'pipe' })
  await activateNode(node)
  const buffer = new Uint8Array(65536)
  await node.read(65536, 65536, buffer, 0, 0)
  expect(buffer.every((byte) => byte === 7)).toBe(true)
  await layer.unref(node)
  await layer.closeAll()
})

test('row 115: an image that is broken when it comes back stays inactive and usable once repaired', async () => {
  const path = join(folder, 'b.qcow2')
  const copy = join(folder, 'b.copy')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M'])
  const layer = nodeLayer()
  const node = await layer.open(path, { 'node-name': 'q', active: false }, { write: true })
  execFileSync('cp', [path, copy])
  execFileSync('dd', ['if=/dev/zero', `of=${path}`, 'bs=512', 'count=1', 'conv=notrunc', 'status=none'])
  expect((await failure(() => activateNode(node))).message).toBe(
    'Could not reopen qcow2 layer: Image is not in qcow2 format',
  )
  expect(isInactive(node)).toBe(true)
  execFileSync('dd', [`if=${copy}`, `of=${path}`, 'conv=notrunc', 'status=none'])
  await activateNode(node)
  await node.write(0, 512, pattern(512, 5), 0, 0)
  await layer.unref(node)
  expect(execFileSync('qemu-img', ['check', path], { encoding: 'utf8' })).toContain('No errors were found')
})
