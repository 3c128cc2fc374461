// Runs one of the long tests of the daemon: npm run jobs:long [-- SECONDS [SEED]], npm run fuzz:daemon [-- MINUTES [SEED]].
import { spawnSync } from 'node:child_process'

const [what, time, seed] = process.argv.slice(2)
const tests = {
  jobs: ['tests/live/jobs-load.test.ts', Number(time ?? 1800)],
  fuzz: ['tests/live/fuzz.test.ts', Number(time ?? 10) * 60],
}
const [file, seconds] = tests[what] ?? []
if (file === undefined || !(seconds > 0)) {
  console.error('usage: live.mjs jobs [SECONDS [SEED]] | fuzz [MINUTES [SEED]]')
  process.exit(2)
}
const { status } = spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', file], {
  stdio: 'inherit',
  env: {
    ...process.env,
    BLOCKGRAPH_LIVE_SECONDS: String(seconds),
    BLOCKGRAPH_LIVE_SEED: seed ?? String(1 + Math.floor(Math.random() * 1e6)),
  },
})
process.exit(status ?? 1)
