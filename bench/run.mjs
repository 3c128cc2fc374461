// Runs each job with blockgraph and with qemu-img in alternation and prints the ratios.
// node bench/run.mjs [words of jobs | growth | memory]...   PAIRS=5, KEEP=1 keeps the images
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { growth } from './growth.mjs'
import { image } from './images.mjs'
import { jobs } from './jobs.mjs'
import { alternate, footprint, qemu, root } from './measure.mjs'

const work = process.env.BENCH_WORK ?? `${root}bench/work`
const committed = `${root}bench/results.json`
const pairs = Number(process.env.PAIRS ?? 5)
const only = process.argv.slice(2)
const wanted = (name) => only.length === 0 || only.some((word) => name.includes(word))

process.chdir(root)
execFileSync(process.execPath, ['scripts/build.mjs', '--no-types'], {
  stdio: ['ignore', 'ignore', 'inherit'],
})
rmSync(work, { recursive: true, force: true })
mkdirSync(work, { recursive: true })
process.chdir(work)

const before = existsSync(committed) ? JSON.parse(readFileSync(committed, 'utf8')) : {}
const results = {}
const width = 50

function time(seconds) {
  return `${(seconds * 1000).toFixed(0)} ms`.padStart(9)
}

console.log(
  `${'job'.padEnd(width)} ${'ours'.padStart(9)} ${'qemu'.padStart(9)}  ratio (min - max)     wanted  committed`,
)
for (const [name, [least, make]] of Object.entries(jobs)) {
  if (!wanted(name)) {
    continue
  }
  const result = { ...alternate(make(), pairs), wanted: least }
  results[name] = result
  const spread = `(${result.min.toFixed(2)} - ${result.max.toFixed(2)})`
  const verdict = `${String(least).padStart(5)} ${result.ratio >= least ? 'ok' : '--'}`
  const old = before.results?.[name]?.ratio?.toFixed(2) ?? ''
  console.log(
    `${name.padEnd(width)} ${time(result.ours)} ${time(result.theirs)} ${result.ratio.toFixed(2).padStart(6)} ${spread.padEnd(16)} ${verdict}  ${old.padStart(6)}`,
  )
}

let memory = {}
if (wanted('memory')) {
  const peak = (name, ...args) => {
    const { peak: mebibytes } = footprint(['convert', ...args, image(name), 'out'])
    memory = { ...memory, [`convert ${args.join(' ')} ${name}`]: Math.round(mebibytes) }
    rmSync('out')
  }
  peak('noise.raw', '-f', 'raw', '-O', 'qcow2')
  peak('noise.qcow2', '-f', 'qcow2', '-O', 'raw')
  peak('scattered.raw', '-f', 'raw', '-O', 'qcow2')
  peak('mixed.raw', '-c', '-f', 'raw', '-O', 'qcow2')
  peak('mixed.zlib.qcow2', '-f', 'qcow2', '-O', 'raw')
  console.log('\npeak memory of convert, MiB (wanted: at most 160)')
  for (const [name, mebibytes] of Object.entries(memory)) {
    console.log(`${name.padEnd(width)} ${String(mebibytes).padStart(9)}`)
  }
}

let rows = {}
if (wanted('growth')) {
  rows = growth()
  const columns = Object.keys(Object.values(rows)[0])
  console.log(`\n${'cost growth'.padEnd(34)} ${columns.map((column) => column.padStart(11)).join(' ')}`)
  for (const [name, row] of Object.entries(rows)) {
    console.log(`${name.padEnd(34)} ${columns.map((c) => row[c].toFixed(1).padStart(11)).join(' ')}`)
  }
}

const machine = { cpus: cpus().length, node: process.version, qemu: qemu('--version').split('\n')[0] }
const rounded = (value) =>
  JSON.parse(JSON.stringify(value, (_, v) => (typeof v === 'number' ? +v.toPrecision(4) : v)))
const file = only.length === 0 ? committed : `${root}bench/last.json`
writeFileSync(file, `${JSON.stringify(rounded({ machine, results, memory, growth: rows }), null, 2)}\n`)
process.chdir(root)
if (process.env.KEEP === undefined) {
  rmSync(work, { recursive: true, force: true })
}
