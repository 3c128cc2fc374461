// Runs the tests once under each I/O backend: `npm run unit:aio [-- backend | path]...`, default all of both.
import { spawnSync } from 'node:child_process'

const all = ['threads', 'native', 'io_uring']
const given = process.argv.slice(2)
const backends = given.filter((word) => all.includes(word))
const paths = given.filter((word) => !all.includes(word))
let failed = false
for (const backend of backends.length === 0 ? all : backends) {
  console.log(`BLOCKGRAPH_AIO=${backend}`)
  const { status } = spawnSync(
    process.execPath,
    ['node_modules/vitest/vitest.mjs', 'run', '--reporter=dot', ...paths],
    { stdio: 'inherit', env: { ...process.env, BLOCKGRAPH_AIO: backend } },
  )
  failed ||= status !== 0
}
process.exitCode = failed ? 1 : 0
