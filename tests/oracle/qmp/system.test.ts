import { expect, test } from 'vitest'
import { type EntityDef, entities } from '../../../src/qmp/schema/index.js'
import { same } from './same.js'
import { type Exchange, eventsOf, exchangesOf } from './transcript.js'
import { argumentTranscripts } from './transcripts/arguments.js'
import { chainTranscripts } from './transcripts/chain.js'
import { eventTranscripts } from './transcripts/events.js'
import { jobTranscripts } from './transcripts/jobs.js'
import { nodeTranscripts } from './transcripts/nodes.js'
import { policyTranscripts } from './transcripts/policies.js'
import { wireTranscripts } from './transcripts/wire.js'

/** What qemu-system-x86_64 without a machine answers is what our daemon answers. */

const exchanges: Exchange[] = []
const events = new Set<string>()

for (const { name, prepare, steps, negotiate } of [
  ...argumentTranscripts,
  ...wireTranscripts,
  ...nodeTranscripts,
  ...chainTranscripts,
  ...jobTranscripts,
  ...policyTranscripts,
  ...eventTranscripts,
]) {
  test(name, async () => {
    const lines = await same(name, prepare, steps, negotiate)
    exchanges.push(...exchangesOf(steps, lines))
    for (const event of eventsOf(lines)) {
      events.add(event)
    }
  })
}

/** What succeeds differently or ends the program: `schema.test.ts` and `process.test.ts` compare these. */
const elsewhere = ['query-chardev-backends', 'query-commands', 'query-qmp-schema', 'quit']

/** These need a device of a guest, which a machine that is none cannot have. */
const needDevices = ['BLOCK_IO_ERROR', 'VSERPORT_CHANGE']

test('how much has been compared', () => {
  const all = Object.entries(entities as Readonly<Record<string, EntityDef>>)
  const commands = all.filter(([, def]) => def.event !== true).map(([name]) => name)
  const without = (isGood: boolean): string[] => {
    const seen = new Set(exchanges.filter((one) => one.isGood === isGood).map(({ command }) => command))
    return commands.filter((name) => !seen.has(name))
  }
  const silent = all.filter(([name, def]) => def.event === true && !events.has(name)).map(([name]) => name)
  // The number asked for is 150.
  expect(exchanges.length).toBeGreaterThanOrEqual(150)
  expect(without(false)).toEqual([])
  expect(without(true).sort()).toEqual(elsewhere)
  expect(silent).toEqual(needDevices)
})
