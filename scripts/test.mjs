// Runs the static checks, the build and the tests; prints the true totals on the last line.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const scratch = mkdtempSync(join(tmpdir(), 'blockgraph-test-'))
const report = join(scratch, 'vitest.json')
const checks = [
  ['types', ['node_modules/typescript/bin/tsc', '--noEmit', '-p', 'tsconfig.json']],
  ['lint and format', ['node_modules/@biomejs/biome/bin/biome', 'check', '.']],
  ['no forgotten waits', ['node_modules/eslint/bin/eslint.js', 'src']],
  [
    'import direction and cycles',
    [
      'node_modules/dependency-cruiser/bin/dependency-cruise.mjs',
      '--config',
      '.dependency-cruiser.cjs',
      'src',
    ],
  ],
  ['build', ['scripts/build.mjs']],
  ['API docs', ['node_modules/typedoc/bin/typedoc', '--logLevel', 'Warn', '--treatWarningsAsErrors']],
]

let passed = 0
let failed = 0
for (const [name, args] of checks) {
  const start = Date.now()
  const { status } = spawnSync(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'] })
  const ok = status === 0
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`)
  ok ? passed++ : failed++
}

const vitest = spawnSync(
  process.execPath,
  [
    'node_modules/vitest/vitest.mjs',
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...process.argv.slice(2),
  ],
  { stdio: ['ignore', 'inherit', 'inherit'] },
)
try {
  const result = JSON.parse(readFileSync(report, 'utf8'))
  passed += result.numPassedTests
  failed += result.numFailedTests
  // A file that could not even be loaded has no tests to count.
  failed += result.testResults.filter(
    (file) => file.status === 'failed' && file.assertionResults.length === 0,
  ).length
  if (result.numPassedTests === 0) {
    failed++
    console.log('FAIL no test ran')
  }
} catch (error) {
  failed++
  console.log(`FAIL vitest left no report: ${error.message}`)
}
if (vitest.status !== 0 && failed === 0) {
  failed++
}
if (process.argv.length === 2) {
  // All of it takes as long as the tests themselves: npm run unit:aio.
  const sample = ['src/platform', 'src/hostfile', 'src/drivers/protocol/file', 'src/library']
  const start = Date.now()
  const { status: underUring } = spawnSync(
    process.execPath,
    ['scripts/aio-tests.mjs', 'io_uring', ...sample],
    {
      stdio: ['ignore', 'inherit', 'inherit'],
    },
  )
  const time = `(${((Date.now() - start) / 1000).toFixed(1)} s)`
  console.log(`${underUring === 0 ? 'ok  ' : 'FAIL'} a sample of the tests under io_uring ${time}`)
  underUring === 0 ? passed++ : failed++
  const { status } = spawnSync(process.execPath, ['scripts/seed-map.mjs', report, '--check'], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  console.log(`${status === 0 ? 'ok  ' : 'FAIL'} seed map`)
  status === 0 ? passed++ : failed++
}
rmSync(scratch, { recursive: true, force: true })
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
