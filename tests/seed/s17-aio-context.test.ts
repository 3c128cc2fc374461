import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import {
  AioContext,
  type AioNotifier,
  addAioContextNotifier,
  Backend,
  BlockChild,
  type BlockDriver,
  type BlockNode,
  changeAioContext,
  createBlockLayer,
  createIoThread,
  createWithDriver,
  drain,
  Perm,
  Role,
  removeAioContextNotifier,
  setBacking,
  setIoThread,
  truncateNode,
} from '../../src/graph/index.js'
import { attachEdge } from '../../src/graph/lifecycle.js'
import type { HostThreads } from '../../src/host/index.js'
import { BlockStatus, ReqFlags } from '../../src/io/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { threadScript } from '../../src/platform/node/worker/script-fixture.js'
import { failure, memoryLayer, pattern } from './fixtures.js'

const folder = mkdtempSync(join(tmpdir(), 'blockgraph-aio-'))
let script: URL

beforeAll(() => {
  script = threadScript()
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

/** A format that notes when it changes its context. */
function noting(log: string[]): BlockDriver {
  return {
    name: 'noting',
    kind: 'format',
    supportsBacking: true,
    options: {},
    load: () => ({
      open: ({ node, file }) => ({
        length: 512,
        map: {
          resolveRead: (offset, bytes, out) => {
            out.data(bytes, file.node, offset, 0)
            return undefined
          },
        },
        detachAioContext: () => log.push(`${node.name} driver detach from ${node.aioContext.name}`),
        attachAioContext: (context) => log.push(`${node.name} driver attach to ${context.name}`),
        close: () => undefined,
      }),
    }),
  }
}

function notes(log: string[], node: BlockNode, name = ''): AioNotifier {
  return {
    attached: (context, opaque) =>
      log.push(`${node.name} notifier${name} attach ${context.name} ${String(opaque)}`),
    detach: (opaque) => log.push(`${node.name} notifier${name} detach ${String(opaque)}`),
    opaque: 'o',
  }
}

async function setup() {
  const log: string[] = []
  const made = memoryLayer({ drivers: [noting(log)] })
  for (const path of ['/a', '/b', '/c']) {
    made.host.put(path, pattern(512, 1))
  }
  const open = (path: string, name: string) =>
    made.layer.open(path, {
      driver: 'noting',
      'node-name': name,
      'file.node-name': `${name}-file`,
      backing: null,
    })
  return { ...made, log, open }
}

test('row 116: a node starts in the main loop; what is connected moves together, the closed not at all', async () => {
  const { layer, open } = await setup()
  const thread = new AioContext('t')
  const top = await open('/a', 'top')
  const base = await open('/b', 'base')
  const other = await open('/c', 'other')
  await setBacking(top, base)
  await setBacking(other, base)
  const all = [top, base, other, ...[top, base, other].map((node) => node.file as BlockNode)]
  expect(all.map((node) => node.aioContext)).toEqual(all.map(() => layer.mainContext))
  await changeAioContext(top.file as BlockNode, thread)
  expect(all.map((node) => node.aioContext.name)).toEqual(all.map(() => 't'))
  for (const node of [top, other, base]) {
    await layer.unref(node)
  }
  await changeAioContext(top, layer.mainContext)
  expect(top.driver).toBeUndefined()
})

test('row 116: notifiers, driver, file, backing are taken down in that order and put up in the other', async () => {
  const { layer, log, open } = await setup()
  const top = await open('/a', 'top')
  const base = await open('/b', 'base')
  await setBacking(top, base)
  for (const node of [top, base, top.file as BlockNode]) {
    addAioContextNotifier(node, notes(log, node))
  }
  await changeAioContext(top, new AioContext('t'))
  expect(log).toEqual([
    'top notifier detach o',
    'top driver detach from main',
    'top-file notifier detach o',
    'base notifier detach o',
    'base driver detach from main',
    'base driver attach to t',
    'base notifier attach t o',
    'top-file notifier attach t o',
    'top driver attach to t',
    'top notifier attach t o',
  ])
  await layer.unref(top)
  await layer.unref(base)
})

test('row 116: if one user of any node cannot move, nothing does', async () => {
  const { layer, log, open } = await setup()
  const thread = new AioContext('t')
  const top = await open('/a', 'top')
  const base = await open('/b', 'base')
  await setBacking(top, base)
  const edge = new BlockChild('root', Role.data, { description: "block job 'job0'" }, base)
  edge.perm = 0
  attachEdge(edge)
  expect(await failure(() => changeAioContext(top, thread))).toEqual({
    code: 'EPERM',
    message: "Changing iothreads is not supported by block job 'job0'",
  })
  base.parents.splice(base.parents.indexOf(edge), 1)
  base.references--
  const device = new Backend(layer, { name: 'd0', perm: Perm.consistentRead })
  await device.insert(top)
  device.device.attach({ id: '', ops: {} })
  expect(await failure(() => changeAioContext(base, thread))).toEqual({
    code: 'EPERM',
    message: 'Cannot change iothread of active block backend',
  })
  expect([log, top.aioContext, base.aioContext]).toEqual([[], layer.mainContext, layer.mainContext])
  // The backend itself may ask; so may others once it says so.
  await device.setAioContext(thread)
  expect([base.aioContext, device.aioContext]).toEqual([thread, thread])
  device.allowAioContextChange = true
  await changeAioContext(base, layer.mainContext)
  expect(device.aioContext).toBe(layer.mainContext)
  await device.close()
  await layer.unref(top)
  await layer.unref(base)
})

test('row 116: requests held back while the graph moves come after it, in order', async () => {
  const { layer, open } = await setup()
  const top = await open('/a', 'top')
  const device = new Backend(layer, { name: 'd0', perm: Perm.consistentRead })
  await device.insert(top)
  const order: string[] = []
  const section = await drain([top])
  const reads = [1, 2, 3].map(async (n) => {
    await device.read(0, 512, new Uint8Array(512))
    order.push(`read ${n} in ${top.aioContext.name}`)
  })
  await changeAioContext(top, new AioContext('t'))
  order.push('moved')
  section.end()
  await Promise.all(reads)
  expect(order).toEqual(['moved', 'read 1 in t', 'read 2 in t', 'read 3 in t'])
  await device.close()
  await layer.unref(top)
})

test('row 116: a new child goes where its parent is, else the parent follows it', async () => {
  const { layer, open } = await setup()
  const thread = new AioContext('t')
  const top = await open('/a', 'top')
  const base = await open('/b', 'base')
  await changeAioContext(top, thread)
  await setBacking(top, base)
  expect([base.aioContext, base.file?.aioContext]).toEqual([thread, thread])
  const fixed = new Backend(layer, { perm: Perm.consistentRead })
  const other = await open('/c', 'other')
  await fixed.insert(other)
  const overlay = await layer.open('/a', { driver: 'raw', 'force-share': true })
  await changeAioContext(overlay, thread)
  expect((await failure(() => changeAioContext(other, thread))).code).toBe('EPERM')
  const onTop = await layer.open(undefined, { driver: 'noting', file: 'other' })
  expect(onTop.aioContext).toBe(layer.mainContext)
  await fixed.setAioContext(thread).catch(() => undefined)
  expect([onTop.aioContext, other.aioContext, fixed.aioContext]).toEqual([thread, thread, thread])
  await fixed.close()
  for (const node of [onTop, overlay, other, top, base]) {
    await layer.unref(node)
  }
  expect(layer.nodes.size).toBe(0)
})

test('row 117: the newest notifier is called first; removing takes an exact match', async () => {
  const { layer, log, open } = await setup()
  const node = await open('/a', 'n')
  const [one, two] = [notes(log, node, '1'), notes(log, node, '2')]
  addAioContextNotifier(node, one)
  addAioContextNotifier(node, two)
  expect(() => removeAioContextNotifier(node, { ...one, opaque: 'p' })).toThrow('no such AioContext notifier')
  expect(() => removeAioContextNotifier(node, { ...one, detach: two.detach })).toThrow()
  expect(() => removeAioContextNotifier(node, { ...one, attached: two.attached })).toThrow()
  await changeAioContext(node, new AioContext('t'))
  expect(log.filter((line) => line.includes('notifier'))).toEqual([
    'n notifier2 detach o',
    'n notifier1 detach o',
    'n notifier2 attach t o',
    'n notifier1 attach t o',
  ])
  log.length = 0
  removeAioContextNotifier(node, { ...two })
  expect(() => removeAioContextNotifier(node, two)).toThrow()
  await changeAioContext(node, layer.mainContext)
  expect(log.filter((line) => line.includes('notifier2'))).toEqual([])
  await layer.unref(node)
})

test('row 117: a notifier may remove itself or another while it is called', async () => {
  const { layer, open } = await setup()
  const node = await open('/a', 'n')
  const calls: string[] = []
  const second: AioNotifier = { attached: () => undefined, detach: () => calls.push('second'), opaque: 2 }
  const first: AioNotifier = {
    attached: () => undefined,
    detach: () => {
      calls.push('first')
      removeAioContextNotifier(node, first)
      removeAioContextNotifier(node, second)
    },
    opaque: 1,
  }
  addAioContextNotifier(node, second)
  addAioContextNotifier(node, first)
  await changeAioContext(node, new AioContext('t'))
  expect([calls, node.aioNotifiers]).toEqual([['first'], []])
  await layer.unref(node)
})

function transfers(id: number | undefined): { read: number; written: number } {
  const text = readFileSync(`/proc/self/task/${id}/io`, 'utf8')
  const figure = (name: string): number => Number(new RegExp(`^${name}: (\\d+)`, 'm').exec(text)?.[1])
  return { read: figure('rchar'), written: figure('wchar') }
}

async function real() {
  const host = createNodeHost({ threadScript: script })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  return { host, layer }
}

test('row 116: on an I/O thread the system calls of a qcow2 chain are that thread', async () => {
  const { layer } = await real()
  const qcow2 = layer.findFormat('qcow2')
  if (qcow2 === undefined) {
    throw new Error('no qcow2')
  }
  const path = join(folder, 'a.qcow2')
  const base = join(folder, 'base.raw')
  writeFileSync(base, pattern(1 << 20, 3))
  await createWithDriver(layer, qcow2, path, { size: 1 << 20, backing_file: base, backing_fmt: 'raw' })
  const device = await Backend.open(layer, path, {}, { write: true }, { name: 'd0' })
  const context = await createIoThread(layer, 'io0')
  await setIoThread(layer, device.node.name, 'io0', true)
  expect(device.aioContext).toBe(context)
  const main = process.pid
  const before = { thread: transfers(context.thread?.id), main: transfers(main) }
  const bytes = 512 << 10
  const buffer = new Uint8Array(bytes)
  await device.read(0, bytes, buffer)
  expect(Buffer.compare(buffer, pattern(1 << 20, 3).subarray(0, bytes))).toBe(0)
  await device.write(0, bytes, pattern(bytes, 9))
  await device.flush()
  const after = { thread: transfers(context.thread?.id), main: transfers(main) }
  expect(after.thread.read - before.thread.read).toBeGreaterThanOrEqual(bytes)
  expect(after.thread.written - before.thread.written).toBeGreaterThanOrEqual(bytes)
  expect(after.main.written - before.main.written).toBeLessThan(65536)
  expect(await failure(() => layer.objects.remove('io0'))).toEqual({
    code: 'EBUSY',
    message: "object 'io0' is in use, can not be deleted",
  })
  await device.setAioContext(layer.mainContext)
  const idle = transfers(context.thread?.id)
  const back = new Uint8Array(bytes)
  await device.read(0, bytes, back)
  expect(Buffer.compare(back, pattern(bytes, 9))).toBe(0)
  expect(transfers(context.thread?.id)).toEqual(idle)
  layer.objects.remove('io0')
  await layer.closeAll()
})

test('row 116: requests in flight while the graph moves to and fro are neither lost nor mixed up', async () => {
  const { layer } = await real()
  const path = join(folder, 'b.raw')
  const slots = 64
  writeFileSync(path, new Uint8Array(slots * 4096))
  const device = await Backend.open(layer, path, { driver: 'raw' }, { write: true }, { name: 'd0' })
  const context = await createIoThread(layer, 'io0')
  const written = new Array<number>(slots).fill(0)
  let stop = false
  let requests = 0
  const worker = async (slot: number): Promise<void> => {
    const buffer = new Uint8Array(4096)
    while (!stop) {
      const value = (written[slot] as number) + 1
      await device.write(slot * 4096, 4096, new Uint8Array(4096).fill(value & 255))
      written[slot] = value
      await device.read(slot * 4096, 4096, buffer)
      expect([buffer[0], buffer[4095]]).toEqual([value & 255, value & 255])
      requests += 2
      // Requests answered from the page cache never give way.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  const workers = written.map((_, slot) => worker(slot))
  for (let i = 0; i < 20; i++) {
    await device.setAioContext(i % 2 === 0 ? context : layer.mainContext)
    await new Promise((resolve) => setTimeout(resolve, 3))
  }
  stop = true
  await Promise.all(workers)
  expect(requests).toBeGreaterThan(slots * 4)
  const file = readFileSync(path)
  expect(written.map((value, slot) => file[slot * 4096] === (value & 255))).toEqual(written.map(() => true))
  await layer.closeAll()
})

test('row 116: zeroes, discards, resizing and copies work on a thread as they do without', async () => {
  const { layer } = await real()
  const results: Buffer[] = []
  const copies: unknown[] = []
  const context = await createIoThread(layer, 'io0')
  for (const on of [layer.mainContext, context]) {
    const path = join(folder, `${on.name}.raw`)
    writeFileSync(path, pattern(1 << 20, 5))
    const device = await Backend.open(
      layer,
      path,
      { driver: 'raw', discard: 'unmap', 'file.discard': 'unmap' },
      { write: true, resize: true },
      { name: `d-${on.name}` },
    )
    await device.setAioContext(on)
    await device.writeZeroes(4096, 65536)
    await device.writeZeroes(131072, 65536, ReqFlags.mayUnmap)
    await device.discard(262144, 65536)
    await device.write(300000, 1234, pattern(1234, 8))
    for (const preallocation of ['falloc', 'full', 'off'] as const) {
      await truncateNode(device.node, device.length + (1 << 20), { exact: true, preallocation, zero: false })
    }
    await truncateNode(device.node, 2 << 20, { exact: true, preallocation: 'off', zero: false })
    const status = new BlockStatus()
    const wait = device.node.status(131072, 65536, 'zero', status)
    if (wait !== undefined) {
      await wait
    }
    const file = device.node.file
    copies.push([status.zero, await file?.state?.copyRangeTo?.(0, file, 1 << 20, 65536)])
    await device.flush()
    await device.close()
    results.push(readFileSync(path))
  }
  const [plain, threaded] = results as [Buffer, Buffer]
  expect([plain.length, Buffer.compare(plain, threaded)]).toEqual([2 << 20, 0])
  expect(copies[1]).toEqual(copies[0])
  await layer.closeAll()
})

test('row 116: threads by id, and platforms that have none', async () => {
  const { layer, open } = await setup()
  const node = await open('/a', 'n')
  expect((await failure(() => createIoThread(layer, 'io0'))).code).toBe('ENOTSUP')
  expect((await failure(() => setIoThread(layer, 'n', 'io0'))).message).toBe('Cannot find iothread io0')
  expect((await failure(() => setIoThread(layer, 'x', null))).message).toBe('Cannot find node x')
  const user = new Backend(layer, { name: 'd0', perm: 0 })
  await user.insert(node)
  expect((await failure(() => setIoThread(layer, 'n', null))).message).toBe(
    'Node n is associated with a BlockBackend and could be in use (use force=true to override this check)',
  )
  await setIoThread(layer, 'n', null, true)
  await user.close()
  await layer.unref(node)
  const stopped: string[] = []
  const threads: HostThreads = {
    start: (name) => ({ name, id: 1, adopt: () => undefined, stop: () => void stopped.push(name) }),
  }
  const host = { ...createNodeHost(), threads }
  const other = createBlockLayer({ host, drivers: allDrivers })
  await createIoThread(other, 'io0')
  expect((await failure(() => createIoThread(other, 'io0'))).code).toBe('EEXIST')
  expect(stopped).toEqual(['io0'])
  await other.closeAll()
  expect(stopped).toEqual(['io0', 'io0'])
})
