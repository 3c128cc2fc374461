// Makes docs/seed-map.md from tests/seed/rows.txt and the results of the tests, and counts the rows that
// are shown. Usage: seed-map.mjs [vitest's JSON report]; without one it runs tests/seed first. With
// --check the document is compared, not written.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
process.chdir(root)
const check = process.argv.includes('--check')
const [given] = process.argv.slice(2).filter((argument) => !argument.startsWith('--'))
const rowCount = 121
const document = 'docs/seed-map.md'

function readReport(path) {
  return JSON.parse(readFileSync(path, 'utf8')).testResults
}

function runTests() {
  const folder = mkdtempSync(join(tmpdir(), 'blockgraph-seed-'))
  const report = join(folder, 'report.json')
  try {
    spawnSync(
      process.execPath,
      ['node_modules/vitest/vitest.mjs', 'run', 'tests/seed', '--reporter=json', `--outputFile=${report}`],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    )
    return readReport(report)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Passed tests by row, as `file › title`. */
function testsByRow(results) {
  const byRow = new Map()
  for (const file of results) {
    const name = relative(root, file.name)
    if (!name.startsWith('tests/seed/')) {
      continue
    }
    for (const { title, status } of file.assertionResults) {
      const match = /^rows? (\d+(?:(?:, | and |-)\d+)*):/.exec(title)
      for (const row of match === null ? [] : rowsOf(match[1])) {
        const entry = byRow.get(row) ?? { passed: [], failed: [] }
        ;(status === 'passed' ? entry.passed : entry.failed).push({ file: name, title })
        byRow.set(row, entry)
      }
    }
  }
  return byRow
}

function rowsOf(text) {
  return text.split(/, | and /).flatMap((part) => {
    const [first, last = first] = part.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, i) => first + i)
  })
}

const problems = []
const rows = new Map()
for (const line of readFileSync('tests/seed/rows.txt', 'utf8').split('\n')) {
  if (line === '' || line.startsWith('#')) {
    continue
  }
  const [number, behaviour, where] = line.split(' | ')
  rows.set(Number(number), { behaviour, where })
  const [file, name] = where.split('#')
  const path = join('src', file)
  if (!existsSync(path) || !new RegExp(`\\b${name}\\b`).test(readFileSync(path, 'utf8'))) {
    problems.push(`row ${number}: ${where} does not exist`)
  }
}

const tests = testsByRow(given === undefined ? runTests() : readReport(given))
const lines = [
  '# Where each behaviour of the seed lives',
  '',
  "The project grew from QEMU's `block.c` of 2.5; its behaviours are numbered 1 to 121. Made from",
  '`tests/seed/rows.txt` and the tests by `npm run seed-map`; do not edit.',
  '',
  '| row | behaviour | where | tests |',
  '|---|---|---|---|',
]
let shown = 0
for (let row = 1; row <= rowCount; row++) {
  const entry = rows.get(row)
  const { passed = [], failed = [] } = tests.get(row) ?? {}
  if (entry === undefined) {
    problems.push(`row ${row} is not in tests/seed/rows.txt`)
    continue
  }
  if (passed.length === 0 || failed.length > 0) {
    problems.push(`row ${row}: ${passed.length} tests passed, ${failed.length} did not`)
    continue
  }
  shown++
  const [file, name] = entry.where.split('#')
  const files = [...new Set(passed.map((test) => test.file))].map((test) => `${test} (${passed.length})`)
  lines.push(`| ${row} | ${entry.behaviour} | \`${name}\`, src/${file} | ${files.join(', ')} |`)
}
const text = `${lines.join('\n')}\n`
if (check) {
  if (!existsSync(document) || readFileSync(document, 'utf8') !== text) {
    problems.push(`${document} is out of date: npm run seed-map`)
  }
} else {
  writeFileSync(document, text)
}
for (const problem of problems) {
  console.log(problem)
}
console.log(`${shown} of ${rowCount}`)
process.exit(problems.length === 0 ? 0 : 1)
