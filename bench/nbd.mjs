// Serves the same image with blockgraph-nbd and with qemu-nbd in alternation, over a Unix socket, and
// prints requests, or copies, a second and how many times as fast ours is. Needs fio with its nbd engine, nbdcopy and qemu-nbd.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const work = `${root}bench/work/nbd`
const pairs = Number(process.env.PAIRS ?? 3)
const seconds = Number(process.env.SECONDS ?? 4)
const only = process.argv[2]
process.chdir(root)
if (process.env.BUILT === undefined) {
  execFileSync(process.execPath, ['scripts/build.mjs', '--no-types'], { stdio: 'inherit' })
}
rmSync(work, { recursive: true, force: true })
mkdirSync(work, { recursive: true })
process.chdir(work)

const socket = `${work}/s`
const uri = `nbd+unix:///?socket=${socket}`
const programs = { ours: `${root}bin/blockgraph-nbd`, qemu: 'qemu-nbd' }

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds))
}

async function served(program, args, run) {
  rmSync(socket, { force: true })
  const child = spawn(program, ['-t', '-e', '64', '-k', socket, ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  try {
    while (!existsSync(socket)) {
      await pause(20)
    }
    await pause(400)
    return run()
  } finally {
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    await ended
  }
}

/** What fio says of a job, as one that it has made of all clients. */
function fio(rw, bs, depth, clients, value) {
  return () => {
    const text = execFileSync(
      'fio',
      [
        '--name=job',
        '--ioengine=nbd',
        `--uri=${uri}`,
        `--rw=${rw}`,
        `--bs=${bs}`,
        `--iodepth=${depth}`,
        `--numjobs=${clients}`,
        '--thread',
        '--group_reporting',
        '--size=1G',
        '--time_based',
        `--runtime=${seconds}`,
        '--output-format=json',
        '--randrepeat=1',
      ],
      { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
    )
    const { jobs } = JSON.parse(text.slice(text.indexOf('{')))
    return value(jobs[0])
  }
}

function requests(rw, bs, depth, clients = 1) {
  return fio(rw, bs, depth, clients, ({ read, write }) => read.iops + write.iops)
}

/** One divided by the latency, in seconds, that 99 of 100 reads of a client keep: higher is better, as of requests. */
function latency(rw, bs, depth, clients) {
  return fio(rw, bs, depth, clients, ({ read }) => 1e9 / read.clat_ns.percentile['99.000000'])
}

/** Copies a second. */
function copy() {
  const start = process.hrtime.bigint()
  execFileSync('nbdcopy', [uri, 'null:'])
  return 1e9 / Number(process.hrtime.bigint() - start)
}

execFileSync('dd', ['if=/dev/urandom', 'of=a.raw', 'bs=1M', 'count=1024'], { stdio: 'ignore' })
execFileSync('qemu-img', ['convert', '-O', 'qcow2', 'a.raw', 'a.qcow2'])
// The page cache keeps this one in small pieces, as after a guest's own writes; `a.raw` in pieces of a megabyte.
execFileSync('dd', ['if=a.raw', 'of=small.raw', 'bs=4k'], { stdio: 'ignore' })
// Or the first jobs wait for the disk.
execFileSync('sync')
const raw = ['-f', 'raw', 'a.raw']
const small = ['-f', 'raw', 'small.raw']
const qcow2 = ['-f', 'qcow2', 'a.qcow2']
const jobs = {
  'raw: 4 KiB random read, depth 16': [raw, requests('randread', '4k', 16)],
  'raw: 4 KiB random read, depth 1': [raw, requests('randread', '4k', 1)],
  'raw: 4 KiB random write, depth 16': [raw, requests('randwrite', '4k', 16)],
  'raw in small pages: 4 KiB random write, depth 16': [small, requests('randwrite', '4k', 16)],
  'raw: 256 KiB sequential read, depth 16': [raw, requests('read', '256k', 16)],
  '64 clients: 4 KiB random read, depth 1': [raw, requests('randread', '4k', 1, 64)],
  '64 clients: 1 / p99 of the latency, seconds': [raw, latency('randread', '4k', 1, 64)],
  'raw: nbdcopy 1 GiB': [raw, copy],
  'qcow2: 4 KiB random read, depth 16': [qcow2, requests('randread', '4k', 16)],
  'qcow2: 4 KiB random read, depth 1': [qcow2, requests('randread', '4k', 1)],
  'qcow2: 256 KiB sequential read, depth 16': [qcow2, requests('read', '256k', 16)],
}

function median(values) {
  return [...values].sort((a, b) => a - b)[values.length >> 1]
}

const results = {}
for (const [name, [args, run]] of Object.entries(jobs)) {
  if (only !== undefined && !name.includes(only)) {
    continue
  }
  const ours = []
  const qemu = []
  for (let i = 0; i < pairs; i++) {
    ours.push(await served(programs.ours, args, run))
    qemu.push(await served(programs.qemu, args, run))
  }
  const ratios = ours.map((value, i) => value / qemu[i])
  results[name] = {
    ours: median(ours),
    qemu: median(qemu),
    ratio: median(ratios),
    min: Math.min(...ratios),
    max: Math.max(...ratios),
  }
  const number = (value) => value.toFixed(value < 100 ? 2 : 0).padStart(9)
  console.log(
    `${name.padEnd(50)} ${number(median(ours))} ${number(median(qemu))}  ${median(ratios).toFixed(2)} (${Math.min(...ratios).toFixed(2)} - ${Math.max(...ratios).toFixed(2)})`,
  )
}
if (only === undefined) {
  const machine = { cpus: cpus().length, node: process.version }
  writeFileSync(`${root}bench/nbd-results.json`, `${JSON.stringify({ machine, results }, null, 2)}\n`)
}
process.chdir(root)
rmSync(work, { recursive: true, force: true })
