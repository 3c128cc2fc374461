import { expect, test } from 'vitest'
import { type EntityDef, entities } from '../../../src/qmp/schema/index.js'
import { same } from './same.js'
import { type Exchange, exchangesOf } from './transcript.js'
import { argumentTranscripts } from './transcripts/arguments.js'
import { nodeTranscripts } from './transcripts/nodes.js'
import { policyTranscripts } from './transcripts/policies.js'
import { wireTranscripts } from './transcripts/wire.js'

// Longer transcripts: what QEMU's daemon and its machine answer is what ours answers.

const exchanges: Exchange[] = []

for (const { name, prepare, steps, negotiate } of [
  ...argumentTranscripts,
  ...wireTranscripts,
  ...nodeTranscripts,
  ...policyTranscripts,
]) {
  test(name, async () => {
    const lines = await same(name, prepare, steps, negotiate)
    exchanges.push(...exchangesOf(steps, lines))
  })
}

test('how much has been compared', () => {
  const all = Object.entries(entities as Readonly<Record<string, EntityDef>>)
  const commands = all.filter(([, def]) => def.event !== true).map(([name]) => name)
  const refused = new Set(exchanges.filter(({ isGood }) => !isGood).map(({ command }) => command))
  expect(commands.filter((name) => !refused.has(name))).toEqual([])
  // A third of what there was when this was written.
  expect(exchanges.length).toBeGreaterThan(300)
})
