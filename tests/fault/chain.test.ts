import { expect, test } from 'vitest'
import { type BlockNode, ReopenQueue } from '../../src/graph/index.js'
import { commitNode, rebaseImage } from '../../src/image/index.js'
import {
  type Chain,
  carryOn,
  contents,
  expectBlockError,
  guestWrites,
  inspect,
  noise,
  prepare,
} from './chain.js'

/**
 * Operations on chains of images are run once for each write, flush, zeroing or truncation they make,
 * with that one failing. Whether the operation succeeds or not, the guest sees what it saw before,
 * what it writes afterwards is kept, and the image is free of corruption.
 * `FAULT_POINTS` sets how much is tried.
 */
const maxPoints = Number(process.env.FAULT_POINTS ?? 60)

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
