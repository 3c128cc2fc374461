import { expect, test } from 'vitest'
import { type BlockNode, ReopenQueue } from '../../src/graph/index.js'
import { commitNode } from '../../src/image/index.js'
import { type DebugEventSink, debugEventNames } from '../../src/io/index.js'
import { type Chain, contents, expectBlockError, inspect, noise, prepare } from './chain.js'

/**
 * Commit and reopen with a fault that `blkdebug` injects under the overlay or under its backing file,
 * at each event, the first time it occurs, the second and the third. The guest sees what it saw, what
 * it writes later is kept, and the image is sound; a reopen that fails has changed nothing.
 */
const occurrences = Number(process.env.FAULT_OCCURRENCES ?? 3)

/** Occurs by itself nowhere. */
const trigger = 'refblock_update'

const errnos = { EIO: 5, ENOSPC: 28 } as const

type Place = 'overlay' | 'backing'

const disarmed = 99

/** Opens the chain so that `place` fails once, with `code`, when `event` occurs for the `nth` time after `arm`. */
async function openFaulty(chain: Chain, place: Place, event: string, nth: number, code: keyof typeof errnos) {
  const counted = Array.from({ length: nth }, (_, i) => 10 + i)
  const rules = {
    'set-state': [
      { event: trigger, state: 1, new_state: 10 },
      ...counted.map((state) => ({ event, state, new_state: state + 1 })),
      ...[...counted, 10 + nth].map((state) => ({ event: trigger, state, new_state: disarmed })),
    ],
    'inject-error': [{ event, state: nth + 9, errno: errnos[code], once: true, immediately: true }],
  }
  const file = (name: Place, filename: string) => {
    const image = { driver: 'file', filename }
    return name === place ? { driver: 'blkdebug', ...rules, image } : image
  }
  const base = await chain.layer.open(undefined, {
    driver: 'raw',
    'node-name': 'base',
    file: file('backing', '/base'),
  })
  const options = { driver: 'qcow2', discard: 'unmap', file: file('overlay', '/top'), backing: 'base' }
  const node = await chain.layer.open(undefined, options, { write: true })
  await chain.layer.unref(base)
  const faulty = (place === 'overlay' ? node.file : base.file) as BlockNode
  const sink = faulty.state as unknown as DebugEventSink
  return {
    node,
    arm: () => sink.event(trigger),
    async disarm() {
      await sink.event(trigger)
      // An event that no request followed: the fault would meet the next one.
      await swallow(async () => faulty.read(0, 512, new Uint8Array(512), 0, 0))
    },
  }
}

async function swallow(run: () => Promise<unknown>): Promise<void> {
  await run().catch(() => undefined)
}

async function carryOn(chain: Chain, node: BlockNode): Promise<void> {
  const data = noise(2000, 9)
  for (const offset of [7000, 40_000, 60_000]) {
    await node.write(offset, data.length, data, 0, 0)
    chain.guest.set(data, offset)
  }
  await node.flush()
}

/** Runs `attempt` for each event and occurrence; returns the events at which it failed. */
async function everyEvent(
  place: Place,
  code: keyof typeof errnos,
  attempt: (chain: Chain, faulty: Awaited<ReturnType<typeof openFaulty>>) => Promise<boolean>,
): Promise<Set<string>> {
  const failures = new Set<string>()
  for (const event of debugEventNames) {
    for (let nth = 1; event !== 'none' && event !== trigger && nth <= occurrences; nth++) {
      const chain = await prepare({})
      const faulty = await openFaulty(chain, place, event, nth, code)
      const { node } = faulty
      const failed = await attempt(chain, faulty)
      expect(Buffer.compare(await contents(node), chain.guest), `${event} ${nth}`).toBe(0)
      await chain.layer.unref(node)
      expect(await inspect(chain), `${event} ${nth}`).toBeUndefined()
      if (!failed) {
        break
      }
      failures.add(event)
    }
  }
  return failures
}

/** The events at which a commit can fail. */
const whileCommitting = {
  overlay: [
    'empty_image_prepare',
    'flush_to_disk',
    'flush_to_os',
    'l1_update',
    'l2_load',
    'pwritev',
    'pwritev_done',
    'read_aio',
    'refblock_load',
    'refblock_update_part',
  ],
  backing: ['flush_to_disk', 'flush_to_os', 'pwritev', 'pwritev_done', 'pwritev_zero', 'write_aio'],
}

const whileReopening = [
  'flush_to_disk',
  'flush_to_os',
  'l2_update',
  'pwritev',
  'pwritev_done',
  'refblock_update_part',
]

const cases = [
  ['overlay', 'EIO'],
  ['backing', 'EIO'],
  ['overlay', 'ENOSPC'],
  ['backing', 'ENOSPC'],
] as const

test.each(cases)('commit, %s fails with %s', async (place, code) => {
  const failures = await everyEvent(place, code, async (chain, { node, arm, disarm }) => {
    arm()
    const failed = await expectBlockError(() => commitNode(node), code)
    await disarm()
    await carryOn(chain, node)
    return failed
  })
  expect([...failures].sort()).toEqual(whileCommitting[place])
})

test.each(['EIO', 'ENOSPC'] as const)('reopen, overlay fails with %s', async (code) => {
  const failures = await everyEvent('overlay', code, async (chain, { node, arm, disarm }) => {
    const data = noise(3000, 8)
    await node.write(20_000, data.length, data, 0, 0)
    chain.guest.set(data, 20_000)
    const before = [node.readOnly, node.detectZeroes, [...node.options.entries()]]
    arm()
    const options = { 'read-only': true, 'detect-zeroes': 'on', 'l2-cache-entry-size': 512 }
    const failed = await expectBlockError(() => new ReopenQueue(chain.layer).add(node, options).run(), code)
    await disarm()
    if (failed) {
      expect([node.readOnly, node.detectZeroes, [...node.options.entries()]]).toEqual(before)
      await carryOn(chain, node)
    } else {
      expect([node.readOnly, node.detectZeroes]).toEqual([true, 'on'])
    }
    return failed
  })
  expect([...failures].sort()).toEqual(whileReopening)
})
