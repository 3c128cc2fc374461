// Measures throttled reads for ten seconds: the rate against the limit, and what a graph beside it
// without limits gets alone and meanwhile. Prints the figures; fails if the rate is off by 5 %.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
process.chdir(root)
execFileSync(process.execPath, ['scripts/build.mjs', '--no-types'], { stdio: 'inherit' })
const { allDrivers, Backend, createLibrary, createNodeHost } = await import(`${root}dist/index.js`)

const limit = 20e6
const bytes = 4096
const seconds = 10
const folder = mkdtempSync(join(tmpdir(), 'blockgraph-throttle-'))

/** Reads with four requests under way until `until` (ms); requests done. */
async function load(backend, until) {
  let done = 0
  const run = async () => {
    const buffer = new Uint8Array(bytes)
    for (let at = 0; performance.now() < until; at = (at + bytes) % (1 << 20)) {
      await backend.read(at, bytes, buffer)
      done++
      // Requests from the page cache take no turn of the event loop; others must get theirs.
      if (done % 64 === 0) {
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
  }
  await Promise.all([run(), run(), run(), run()])
  return done
}

const { layer } = createLibrary({ drivers: allDrivers, host: createNodeHost() })
const beside = createLibrary().layer
try {
  writeFileSync(join(folder, 'a'), Buffer.alloc(1 << 20))
  writeFileSync(join(folder, 'b'), Buffer.alloc(1 << 20))
  layer.throttleGroups.add('g', { 'bps-total': limit })
  const file = { driver: 'file', filename: join(folder, 'a') }
  const limited = await layer.open(undefined, { driver: 'throttle', 'throttle-group': 'g', file })
  const throttled = new Backend(layer, { perm: 1 })
  await throttled.insert(limited)
  const free = new Backend(beside, { perm: 1 })
  await free.insert(await beside.open(undefined, { driver: 'file', filename: join(folder, 'b') }))
  await load(free, performance.now() + 1000)
  const alone = (await load(free, performance.now() + 3000)) / 3
  const start = performance.now()
  const done = await load(throttled, start + seconds * 1000)
  const rate = (done * bytes) / ((performance.now() - start) / 1000)
  const both = await Promise.all([
    load(throttled, performance.now() + 3000),
    load(free, performance.now() + 3000),
  ])
  console.log(`limit ${limit / 1e6} MB/s, measured ${(rate / 1e6).toFixed(3)} MB/s over ${seconds} s`)
  console.log(`graph beside it: ${Math.round(alone)} requests/s alone, ${Math.round(both[1] / 3)} meanwhile`)
  await throttled.close()
  await layer.unref(limited)
  await free.close()
  process.exitCode = Math.abs(rate / limit - 1) < 0.05 && both[1] / 3 > alone * 0.8 ? 0 : 1
} finally {
  await layer.closeAll()
  await beside.closeAll()
  rmSync(folder, { recursive: true, force: true })
}
