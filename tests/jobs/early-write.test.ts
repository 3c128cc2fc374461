import { expect, test } from 'vitest'
import type { BlockNode } from '../../src/graph/index.js'
import { type BlockJob, createActiveCommit, createMirror } from '../../src/jobs/index.js'
import { Machine, read, settled, untilReady } from './machine.js'

const size = 1 << 20
const block = 64 * 1024

/** Holds the first request of the guest that comes to `node` until it is let go. */
function holdFirst(
  node: BlockNode,
  kind: 'write' | 'writeZeroes' | 'discard',
): { readonly begun: Promise<void>; letGo(): void } {
  let letGo = (): void => undefined
  const gate = new Promise<void>((resolve) => {
    letGo = resolve
  })
  let begin = (): void => undefined
  const begun = new Promise<void>((resolve) => {
    begin = resolve
  })
  const request = node[kind].bind(node) as (...args: unknown[]) => Promise<void> | undefined
  let first = true
  Object.assign(node, {
    [kind]: (...args: unknown[]) => {
      if (!first) {
        return request(...args)
      }
      first = false
      begin()
      return gate.then(() => settled(request(...args)))
    },
  })
  return { begun, letGo }
}

/** Settles as soon as the filter of a job takes requests, before anything else has happened. */
async function untilFiltered(node: () => BlockNode, held: () => boolean): Promise<void> {
  while (!node().isFilter || held()) {
    await Promise.resolve()
  }
}

// The job's filter is in the graph and the job is not made yet, or its first look at the image is over before the write is.
test.each([
  ['commit', 'write'],
  ['commit', 'writeZeroes'],
  ['commit', 'discard'],
  ['mirror', 'write'],
  ['mirror', 'writeZeroes'],
  ['mirror', 'discard'],
] as const)('%s: a %s that began when the job did comes to the target', async (job, kind) => {
  const machine = new Machine()
  const device = await machine.chain(
    [
      { name: '/base', size, clusterSize: block },
      { name: '/top', size, clusterSize: block },
    ],
    (at, write) => write(0, new Uint8Array(size / (at + 1)).fill(at + 1)),
  )
  const { node } = device
  const base = node.backing as BlockNode
  await machine.create({ name: '/t', size, clusterSize: block })
  const target = await machine.layer.open('/t', { driver: 'qcow2' }, { write: true, unmap: true })
  const held = holdFirst(node, kind)
  const making: Promise<BlockJob> =
    job === 'commit'
      ? createActiveCommit({ node, base, jobId: 'j' })
      : createMirror({ node, target, sync: 'full', jobId: 'j' })
  await untilFiltered(
    () => device.node,
    () => device.isHeld,
  )
  const at = size - block
  const request = settled(
    kind === 'write'
      ? device.write(at, block, new Uint8Array(block).fill(7))
      : kind === 'discard'
        ? device.discard(at, block)
        : device.writeZeroes(at, block),
  )
  await held.begun
  const made = await making
  made.start()
  await untilReady(made)
  held.letGo()
  await request
  const expected = await read(device)
  expect(expected[at]).toBe(kind === 'write' ? 7 : 0)
  await made.complete()
  await made.wait()
  expect(device.node).toBe(job === 'commit' ? base : target)
  expect(Buffer.compare(await read(device), expected)).toBe(0)
  await machine.layer.unref(target)
  await device.close()
})
