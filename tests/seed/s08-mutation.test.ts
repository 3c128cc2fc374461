import { expect, test } from 'vitest'
import {
  appendNode,
  attachChild,
  Backend,
  checkToReplaceNode,
  detachChild,
  drain,
  dropIntermediate,
  freezeChain,
  isFirstNonFilter,
  makeAnonymous,
  Perm,
  Role,
  recurseCanReplace,
  replaceInBackingChain,
  replaceNode,
  setBacking,
  unfreezeChain,
} from '../../src/graph/index.js'
import { throttleLimits } from '../../src/io/index.js'
import { FakeClock } from '../../src/testing/index.js'
import { failure, memoryLayer, pattern, toyFormat } from './fixtures.js'

/** Like qcow2 without clusters: everything shows the backing file. */
const cow = toyFormat('cow', 0, {
  supportsBacking: true,
  load: () => ({
    open: ({ file }) => ({
      length: file.node.length,
      map: {
        resolveRead: (_offset, bytes, out) => {
          out.unallocated(bytes)
          return undefined
        },
      },
      close: () => undefined,
    }),
  }),
})

const filter = {
  ...toyFormat('filter', 0),
  kind: 'filter' as const,
  load: () => ({ open: () => ({ length: 512, close: () => undefined }) }),
}

async function setup() {
  const made = memoryLayer({ drivers: [cow, filter] })
  for (const [name, seed] of [
    ['/a', 1],
    ['/b', 2],
    ['/c', 3],
  ] as const) {
    made.host.put(name, pattern(512, seed))
  }
  const raw = (path: string) => made.layer.open(path, { driver: 'raw' })
  const open = (path: string) => made.layer.open(path, { driver: 'cow', backing: null })
  return { ...made, raw, open }
}

async function seed(backend: Backend): Promise<number | undefined> {
  const buffer = new Uint8Array(512)
  await backend.read(0, 512, buffer)
  return [1, 2, 3].find((n) => buffer.every((byte, i) => byte === pattern(512, n)[i]))
}

test('row 69: edges are in the lists of both ends; cycles are refused; detaching nothing is a no-op', async () => {
  const { layer, raw, open } = await setup()
  const top = await open('/a')
  const below = await raw('/b')
  await detachChild(undefined)
  const edge = await attachChild(top, below, 'backing', Role.cow)
  expect([top.children.includes(edge), below.parents.includes(edge), below.references]).toEqual([
    true,
    true,
    2,
  ])
  below.inheritsFrom = top
  expect((await failure(() => attachChild(below, top, 'file', Role.image))).message).toBe(
    `Making '${top.name}' a file child of '${below.name}' would create a cycle`,
  )
  await detachChild(edge)
  expect([top.children.includes(edge), below.parents.length, below.inheritsFrom, below.references]).toEqual([
    false,
    0,
    undefined,
    1,
  ])
  await layer.unref(top)
  await layer.unref(below)
})

test('row 70: snapshot=on puts a temporary overlay on top and never writes the image', async () => {
  const { layer, host } = await setup()
  const before = host.contents('/a')?.bytes()
  const node = await layer.open('/a', { driver: 'raw' }, { write: true, snapshot: true })
  expect([node.driver?.name, node.backing?.driver?.name, node.backing?.readOnly, node.length]).toEqual([
    'qcow2',
    'raw',
    true,
    512,
  ])
  expect(node.noFlush).toBe(true)
  await node.write(0, 512, pattern(512, 7), 0, 0)
  const buffer = new Uint8Array(512)
  await node.read(0, 512, buffer, 0, 0)
  expect(buffer).toEqual(pattern(512, 7))
  expect(host.paths.filter((path) => path.startsWith('/var/tmp'))).toEqual([])
  await layer.unref(node)
  expect(host.contents('/a')?.bytes()).toEqual(before)
  expect([...layer.nodes]).toEqual([])
})

test('row 71: what belongs to the device stays with it when the top node changes', async () => {
  const { layer, raw, open } = await setup()
  const node = await raw('/a')
  const overlay = await open('/b')
  const device = new Backend(layer, { name: 'd', perm: Perm.consistentRead, writeThrough: true })
  await device.insert(node)
  await appendNode(overlay, node)
  expect([device.node, device.writeThrough, device.name]).toEqual([overlay, true, 'd'])
  await device.close()
  await layer.unref(overlay)
  await layer.unref(node)
})

test('row 71: copy on read moves with the device if that is asked for', async () => {
  const { layer, raw, open } = await setup()
  const [node, overlay] = [await raw('/a'), await open('/b')]
  node.copyOnRead = 1
  await appendNode(overlay, node, { swapFeatures: true })
  expect([overlay.copyOnRead, node.copyOnRead]).toEqual([1, 0])
  await layer.unref(overlay)
  await layer.unref(node)
})

test('row 71: the membership in a throttle group moves to the new top', async () => {
  const clock = new FakeClock()
  const { layer, host } = memoryLayer({ drivers: [cow, filter], clock })
  host.put('/a', pattern(512, 1))
  host.put('/b', pattern(512, 2))
  const node = await layer.open('/a', { driver: 'raw' })
  const overlay = await layer.open('/b', { driver: 'cow', backing: null })
  const device = new Backend(layer, { name: 'd', perm: Perm.consistentRead })
  await device.insert(node)
  device.joinThrottleGroup('g')
  device.setThrottleLimits(throttleLimits({ 'iops-total': 1 }))
  await device.read(0, 512, new Uint8Array(512))
  await appendNode(overlay, node)
  expect([device.node, device.throttleGroup]).toEqual([overlay, 'g'])
  let done = false
  const read = Promise.resolve(device.read(0, 512, new Uint8Array(512))).then(() => {
    done = true
  })
  await clock.advance(0.5)
  expect(done).toBe(false)
  await clock.advance(1)
  expect(done).toBe(true)
  await read
  // The old top, by itself, is free.
  const other = new Backend(layer, { perm: Perm.consistentRead })
  await other.insert(node)
  for (let i = 0; i < 100; i++) {
    expect(other.read(0, 512, new Uint8Array(512))).toBeUndefined()
  }
  await other.close()
  await device.close()
  expect(layer.throttleGroups.find('g')).toBeUndefined()
  await layer.unref(overlay)
  await layer.unref(node)
})

test('row 72: edges that a job keeps stay, frozen ones refuse, and a failure puts everything back', async () => {
  const { layer, raw } = await setup()
  const [from, to] = [await raw('/a'), await raw('/b')]
  const device = new Backend(layer, { name: 'd', perm: Perm.consistentRead })
  await device.insert(from)
  const job = Object.assign(new Backend(layer, { perm: 0 }), { stayAtNode: true })
  await job.insert(from)
  if (device.root === undefined) {
    throw new Error('no root')
  }
  device.root.frozen = true
  expect(await failure(() => replaceNode(from, to))).toEqual({
    code: 'EPERM',
    message: `Cannot change 'root' link to '${from.name}'`,
  })
  device.root.frozen = false
  // Somebody on the new node does not want others to read.
  const jealous = new Backend(layer, { name: 'j', perm: 0, shared: Perm.write })
  await jealous.insert(to)
  const before = [from.references, to.references, [...from.parents], [...to.parents]]
  expect((await failure(() => replaceNode(from, to))).message).toContain('Permission conflict on node')
  expect([from.references, to.references, [...from.parents], [...to.parents]]).toEqual(before)
  expect(await seed(device)).toBe(1)
  await jealous.close()
  await replaceNode(from, to)
  expect([device.node, job.node]).toEqual([to, from])
  await device.close()
  await job.close()
  await layer.unref(from)
  await layer.unref(to)
  expect(layer.nodes.size).toBe(0)
})

test('row 72: users that come while requests are held back wait as well', async () => {
  const { layer, raw } = await setup()
  const node = await raw('/a')
  const section = await drain([node])
  const late = new Backend(layer, { perm: Perm.consistentRead })
  await late.insert(node)
  const buffer = new Uint8Array(512)
  let done = false
  const reading = Promise.resolve(late.read(0, 512, buffer)).then(() => {
    done = true
  })
  await new Promise((resolve) => setTimeout(resolve, 5))
  expect(done).toBe(false)
  section.end()
  await reading
  expect(done).toBe(true)
  await late.close()
  await layer.unref(node)
})

test('row 72: parents move to the new node and references follow', async () => {
  const { layer, raw } = await setup()
  const [from, to] = [await raw('/a'), await raw('/b')]
  const one = new Backend(layer, { name: 'one', perm: Perm.consistentRead })
  const two = new Backend(layer, { perm: Perm.consistentRead })
  await one.insert(from)
  await two.insert(from)
  expect([await seed(one), from.references, to.references]).toEqual([1, 3, 1])
  await replaceNode(from, to)
  expect([await seed(one), await seed(two), from.references, to.references]).toEqual([2, 2, 1, 3])
  await one.close()
  await two.close()
  await layer.unref(from)
  await layer.unref(to)
  expect(layer.nodes.size).toBe(0)
})

test('row 73: append puts the new node on top with the old one as its backing file', async () => {
  const { layer, raw, open } = await setup()
  const base = await raw('/a')
  const overlay = await open('/b')
  const device = new Backend(layer, { name: 'd', perm: Perm.consistentRead })
  await device.insert(base)
  await appendNode(overlay, base)
  expect([device.node, overlay.backing, await seed(device)]).toEqual([overlay, base, 1])
  expect((await failure(() => appendNode(overlay, base))).message).toContain('already has a backing file')
  const used = await open('/c')
  const other = new Backend(layer, { perm: 0 })
  await other.insert(used)
  expect((await failure(() => appendNode(used, base))).message).toContain('already in use')
  await other.close()
  await device.close()
  for (const node of [used, overlay, base]) {
    await layer.unref(node)
  }
  expect(layer.nodes.size).toBe(0)
})

test('row 73: if the new top cannot be used nothing is left of the attempt', async () => {
  const { layer, raw, open } = await setup()
  const base = await raw('/a')
  const overlay = await open('/b')
  // The overlay is read-only, the device writes.
  const writable = await layer.open('/c', { driver: 'raw' }, { write: true })
  const device = new Backend(layer, { name: 'd', perm: Perm.write | Perm.consistentRead })
  await device.insert(writable)
  expect((await failure(() => appendNode(overlay, writable))).message).toBe('Block node is read-only')
  expect([overlay.backing, overlay.parents, device.node, writable.references, overlay.references]).toEqual([
    undefined,
    [],
    writable,
    2,
    1,
  ])
  expect(writable.opBlockers.isEmpty).toBe(true)
  await device.write(0, 512, pattern(512, 2))
  expect(await seed(device)).toBe(2)
  expect((await failure(() => setBacking(base, writable))).message).toBe(
    `Driver 'raw' of node '${base.name}' does not support backing files`,
  )
  await device.close()
  for (const node of [base, overlay, writable]) {
    await layer.unref(node)
  }
})

test('row 74: frozen links', async () => {
  const { layer, raw, open } = await setup()
  const [base, mid, top] = [await raw('/a'), await open('/b'), await open('/c')]
  await setBacking(mid, base)
  await setBacking(top, mid)
  freezeChain(top, base)
  expect((await failure(() => freezeChain(mid, undefined))).message).toBe(
    `Cannot change 'backing' link from '${mid.name}' to '${base.name}'`,
  )
  expect((await failure(() => setBacking(top, undefined))).message).toBe(
    `Cannot change frozen 'backing' link from '${top.name}' to '${mid.name}'`,
  )
  expect(top.backing).toBe(mid)
  unfreezeChain(top, base)
  // Neither image can record another name: the graph stays as it is.
  expect((await failure(() => dropIntermediate(top, mid, base))).code).toBe('ENOTSUP')
  expect([top.backing, mid.backing]).toEqual([mid, base])
  for (const node of [top, mid, base]) {
    await layer.unref(node)
  }
})

test('row 74: replacing within a chain hands the backing file on', async () => {
  const { layer, raw, open } = await setup()
  const base = await raw('/a')
  const old = await open('/b')
  await appendNode(old, base)
  const fresh = await open('/c')
  const device = new Backend(layer, { perm: Perm.consistentRead })
  await device.insert(old)
  await replaceInBackingChain(old, fresh)
  expect([device.node, fresh.backing, old.backing, await seed(device)]).toEqual([fresh, base, undefined, 1])
  // Active commit: the new node is below the old one, whose links stay.
  await replaceInBackingChain(fresh, base)
  expect([device.node, fresh.backing]).toEqual([base, base])
  await device.close()
  for (const node of [fresh, old, base]) {
    await layer.unref(node)
  }
})

test('row 75: an anonymous node cannot be found any more', async () => {
  const { layer } = await setup()
  const node = await layer.open('/a', { driver: 'raw', 'node-name': 'n' })
  makeAnonymous(node)
  makeAnonymous(node)
  expect([layer.findNode('n'), node.name]).toEqual([undefined, ''])
  await layer.unref(node)
})

test('row 76: the first non-filter below any root', async () => {
  const { layer } = await setup()
  const top = await layer.open(undefined, {
    driver: 'filter',
    file: { driver: 'raw', file: { filename: '/a' } },
  })
  const rawNode = top.file
  const file = rawNode?.file
  if (rawNode === undefined || file === undefined) {
    throw new Error('no file')
  }
  expect([isFirstNonFilter(rawNode), isFirstNonFilter(file), isFirstNonFilter(top)]).toEqual([
    true,
    false,
    false,
  ])
  await layer.unref(top)
  expect(isFirstNonFilter(rawNode)).toBe(false)
})

test('row 76: what may be replaced today, a filter as well', async () => {
  const { layer } = await setup()
  const top = await layer.open(undefined, {
    driver: 'filter',
    file: { driver: 'raw', file: { filename: '/a' } },
  })
  const [rawNode, file] = [top.file, top.file?.file]
  if (rawNode === undefined || file === undefined) {
    throw new Error('no file')
  }
  expect([
    recurseCanReplace(top, top),
    recurseCanReplace(top, rawNode),
    recurseCanReplace(top, file),
  ]).toEqual([true, true, false])
  await layer.unref(top)
})

test('row 77: what a mirror may replace', async () => {
  const { layer, raw } = await setup()
  const parent = await raw('/a')
  const other = await layer.open('/b', { driver: 'raw', 'node-name': 'other' })
  expect((await failure(() => checkToReplaceNode(parent, 'gone'))).message).toBe(
    "Failed to find node with node-name='gone'",
  )
  expect((await failure(() => checkToReplaceNode(parent, 'other'))).message).toContain(
    "Cannot replace 'other' by a node mirrored from",
  )
  expect(checkToReplaceNode(parent, parent.name)).toBe(parent)
  parent.opBlockers.block('replace', { message: 'testing' })
  expect(await failure(() => checkToReplaceNode(parent, parent.name))).toEqual({
    code: 'EBUSY',
    message: `Node '${parent.name}' is busy: testing`,
  })
  await layer.unref(parent)
  await layer.unref(other)
})
