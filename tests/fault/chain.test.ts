import { expect, test } from 'vitest'
import { allDrivers } from '../../src/all-drivers.js'
import { type ErrnoName, isBlockError } from '../../src/errors/index.js'
import {
  type BlockLayer,
  type BlockNode,
  checkNode,
  createBlockLayer,
  createWithDriver,
  ReopenQueue,
} from '../../src/graph/index.js'
import { commitNode, rebaseImage } from '../../src/image/index.js'
import { createNodeHost } from '../../src/platform/node/index.js'
import { MemoryHost, type MemoryOperation } from '../../src/testing/index.js'

/**
 * Operations on chains of images are run once for each write, flush, zeroing or truncation they make,
 * with that one failing. Whether the operation succeeds or not, the guest sees what it saw before,
 * what it writes afterwards is kept, and the image is free of corruption.
 * `FAULT_POINTS` sets how much is tried.
 */
const maxPoints = Number(process.env.FAULT_POINTS ?? 60)

const codecs = createNodeHost().codecs
const clusterSize = 1024
const size = 64 * clusterSize

function noise(bytes: number, seed: number): Uint8Array {
  let state = seed >>> 0
  return Uint8Array.from({ length: bytes }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state >>> 24
  })
}

interface Chain {
  readonly host: MemoryHost
  readonly layer: BlockLayer
  readonly guest: Uint8Array
  /** Parts that were written and never flushed with success: they may be lost. */
  readonly unflushed: [start: number, end: number][]
  /** The operation that failed, if one has. */
  readonly failed: { readonly kind: string; readonly path: string } | undefined
  /** From now on the `failAt`th operation fails. Returns what disarms and counts the operations. */
  arm(failAt: number, code: ErrnoName): () => number
}

async function prepare(options: Record<string, string | number>): Promise<Chain> {
  let armed: { failAt: number; code: ErrnoName; count: number } | undefined
  let broken: MemoryOperation | undefined
  const host = new MemoryHost({
    codecs,
    fault: (operation) => {
      if (armed === undefined || operation.kind === 'read' || armed.count++ !== armed.failAt) {
        return undefined
      }
      broken = operation
      return armed.code
    },
    delay: (operation) => (operation.kind === 'write' && operation.offset % 3 === 0 ? 2 : 0),
  })
  const layer = createBlockLayer({ host, drivers: allDrivers })
  const driver = layer.findFormat('qcow2')
  if (driver === undefined) {
    throw new Error('no qcow2')
  }
  const guest = new Uint8Array(size)
  const base = noise(size / 2 + 512, 1)
  guest.set(base)
  host.put('/base', base)
  const other = noise(size, 2)
  other.set(base.subarray(0, 20 * clusterSize))
  host.put('/other', other)
  const common = { size, cluster_size: clusterSize, backing_file: '/base', backing_fmt: 'raw' }
  await createWithDriver(layer, driver, '/top', { ...common, ...options })
  const node = await layer.open('/top', { driver: 'qcow2' }, { write: true })
  for (const [offset, bytes, seed] of [
    [500, 3000, 3],
    [30 * 1024, 4096, 4],
    [50_000, 700, 5],
  ] as const) {
    const data = noise(bytes, seed)
    await node.write(offset, bytes, data, 0, 0)
    guest.set(data, offset)
  }
  await node.writeZeroes(10 * clusterSize, 2 * clusterSize, 4)
  guest.fill(0, 10 * clusterSize, 12 * clusterSize)
  await layer.unref(node)
  return {
    host,
    layer,
    guest,
    unflushed: [],
    get failed() {
      return broken
    },
    arm: (failAt, code) => {
      const mine = { failAt, code, count: 0 }
      armed = mine
      return () => {
        armed = undefined
        return mine.count
      }
    },
  }
}

async function contents(node: BlockNode): Promise<Uint8Array> {
  const buffer = new Uint8Array(size)
  await node.read(0, size, buffer, 0, 0)
  return buffer
}

/** What is wrong with the image as another program finds it. */
async function inspect({ host, guest, unflushed }: Chain): Promise<string | undefined> {
  const fresh = new MemoryHost({ codecs })
  for (const path of ['/base', '/other', '/top']) {
    fresh.put(path, host.contents(path)?.bytes())
  }
  const layer = createBlockLayer({ host: fresh, drivers: allDrivers })
  const node = await layer.open('/top', { driver: 'qcow2' })
  try {
    const check = await checkNode(node, { leaks: false, errors: false })
    if (check.corruptions !== 0 || check.checkErrors !== 0) {
      return check.messages.join('; ')
    }
    const seen = await contents(node)
    for (const [start, end] of unflushed) {
      seen.set(guest.subarray(start, end), start)
    }
    const at = seen.findIndex((byte, i) => byte !== guest[i])
    return at < 0 ? undefined : `byte ${at} differs`
  } finally {
    await layer.unref(node)
  }
}

/** Writes as the guest does; a write that fails leaves open what is there. */
async function guestWrites(chain: Chain, node: BlockNode, offset: number, data: Uint8Array): Promise<void> {
  chain.unflushed.push([offset, offset + data.length])
  try {
    await node.write(offset, data.length, data, 0, 0)
    chain.guest.set(data, offset)
  } catch (error) {
    expect([isBlockError(error), chain.failed?.kind]).toEqual([true, 'flush'])
    await node.read(offset, data.length, chain.guest.subarray(offset, offset + data.length), 0, 0)
  }
}

/** Goes on writing; what cannot be made durable any more is not claimed to be. */
async function carryOn(chain: Chain, node: BlockNode): Promise<void> {
  const data = noise(2000, 9)
  for (const offset of [7000, 40_000, 60_000]) {
    await guestWrites(chain, node, offset, data)
  }
  try {
    await node.flush()
    chain.unflushed.length = 0
  } catch (error) {
    expect(isBlockError(error)).toBe(true)
  }
}

async function expectBlockError(run: () => Promise<unknown>, code: ErrnoName): Promise<boolean> {
  try {
    await run()
    return false
  } catch (error) {
    if (!isBlockError(error)) {
      throw error
    }
    expect(error.code).toBe(code)
    return true
  }
}

/** Runs `attempt` with each of its operations failing; returns how often it failed. */
async function everyPoint(
  options: Record<string, string | number>,
  attempt: (chain: Chain, failAt: number) => Promise<{ operations: number; failed: boolean }>,
): Promise<number> {
  const clean = await prepare(options)
  const { operations, failed } = await attempt(clean, -1)
  expect([failed, await inspect(clean)]).toEqual([false, undefined])
  let failures = 0
  const every = Math.max(1, Math.ceil(operations / maxPoints))
  for (let at = 0; at < operations; at += every) {
    const chain = await prepare(options)
    failures += (await attempt(chain, at)).failed ? 1 : 0
    expect(await inspect(chain), `operation ${at} of ${operations}`).toBeUndefined()
  }
  return failures
}

const cases = [
  ['EIO', 'version 3', {}],
  ['ENOSPC', 'version 3', {}],
  ['EIO', 'version 2', { compat: '0.10' }],
] as const

test.each(cases)('commit: %s, %s', async (code, _name, options) => {
  const failures = await everyPoint(options, async (chain, failAt) => {
    const { layer, guest } = chain
    const node = await layer.open('/top', { driver: 'qcow2', discard: 'unmap' }, { write: true })
    const disarm = chain.arm(failAt, code)
    const failed = await expectBlockError(() => commitNode(node), code)
    const operations = disarm()
    expect(Buffer.compare(await contents(node), guest)).toBe(0)
    // After a failed flush no later one may succeed, so that the base cannot be left complete.
    const flushFailed = chain.failed?.kind === 'flush' && chain.failed.path === '/base'
    expect((node.backing as BlockNode).readOnly).toBe(!flushFailed)
    await carryOn(chain, node)
    await layer.unref(node).catch(() => undefined)
    return { operations, failed }
  })
  expect(failures).toBeGreaterThan(5)
})

test.each(cases)('rebase: %s, %s', async (code, _name, options) => {
  const failures = await everyPoint(options, async (chain, failAt) => {
    const disarm = chain.arm(failAt, code)
    const failed = await expectBlockError(
      () =>
        rebaseImage(
          chain.layer,
          { filename: '/top', format: 'qcow2' },
          { backing: '/other', backingFormat: 'raw' },
        ),
      code,
    )
    return { operations: disarm(), failed }
  })
  expect(failures).toBeGreaterThan(5)
})

test.each(cases)('reopen: %s, %s', async (code, _name, options) => {
  const failures = await everyPoint(options, async (chain, failAt) => {
    const { layer, guest } = chain
    const node = await layer.open('/top', { driver: 'qcow2' }, { write: true })
    const data = noise(3000, 8)
    await guestWrites(chain, node, 20_000, data)
    const all = [node, node.file as BlockNode, node.backing as BlockNode]
    const look = () =>
      all.map((one) => ({
        flags: { ...one.flags },
        options: [...one.options.entries()],
        state: [one.readOnly, one.noFlush, one.detectZeroes, one.references],
        edges: one.parents.map((edge) => [edge.name, edge.perm, edge.shared]),
      }))
    const before = look()
    const disarm = chain.arm(failAt, code)
    const failed = await expectBlockError(
      () =>
        new ReopenQueue(layer)
          .add(node, {
            'read-only': true,
            'cache.direct': true,
            'detect-zeroes': 'on',
            'l2-cache-entry-size': 512,
          })
          .run(),
      code,
    )
    const operations = disarm()
    if (failed) {
      expect(look()).toEqual(before)
      await carryOn(chain, node)
    } else {
      expect([node.readOnly, node.detectZeroes]).toEqual([true, 'on'])
      chain.unflushed.length = 0
    }
    expect(Buffer.compare(await contents(node), guest)).toBe(0)
    await layer.unref(node).catch(() => undefined)
    return { operations, failed }
  })
  expect(failures).toBeGreaterThan(0)
})

test('a reopen whose second file cannot be opened again leaves both as they were', async () => {
  const chain = await prepare({})
  const { layer, host, guest } = chain
  const node = await layer.open('/top', { driver: 'qcow2' }, { write: true })
  const other = await layer.open('/other', { driver: 'raw' }, { write: true })
  const held = host.contents('/other')
  host.unlink('/other')
  const queue = new ReopenQueue(layer)
    .add(node, { 'cache.direct': true })
    .add(other, { 'cache.direct': true })
  await expect(queue.run()).rejects.toThrow("Could not open '/other': No such file or directory")
  expect([node, other].map((one) => (one.file as BlockNode).limits.requestAlignment)).toEqual([1, 1])
  const locked = (path: string) => host.contents(path)?.locks.map(({ start }) => start)
  expect(new Set(locked('/top'))).toEqual(new Set([100, 101, 103, 201, 203]))
  await carryOn(chain, node)
  expect(held).toBeDefined()
  expect(Buffer.compare(await contents(node), guest)).toBe(0)
  await layer.unref(node)
  await layer.unref(other)
  expect(locked('/top')).toEqual([])
})
