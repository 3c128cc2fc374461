import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { Load } from './load.js'

/**
 * Two clients write a disk over NBD while jobs on it are made, paused, cancelled and completed at random.
 * `npm run jobs:long -- SECONDS [SEED]` runs it longer.
 */
const seconds = Number(process.env.BLOCKGRAPH_LIVE_SECONDS ?? 60)
const seed = Number(process.env.BLOCKGRAPH_LIVE_SEED ?? 1)

test(
  'jobs on a disk that is written over NBD',
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'load-'))
    const load = new Load({ dir, seconds, seed, report: (line) => process.stderr.write(`${line}\n`) })
    await load.run()
    process.stderr.write(`seed ${seed}: ${load.summary()}\n`)
    expect(load.jobs).toBeGreaterThan(3)
    expect(load.fioRuns).toBeGreaterThan(1)
    expect(load.peak).toBeLessThan(256 * 1024 * 1024)
    rmSync(dir, { recursive: true, force: true })
  },
  seconds * 1000 + 180_000,
)
