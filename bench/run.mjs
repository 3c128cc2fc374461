// Runs each job with blockgraph and with qemu-img in alternation and prints the ratios.
import { execFileSync, spawnSync } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { closeSync, existsSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const work = `${root}bench/work`
const pairs = Number(process.env.PAIRS ?? 5)
const only = process.argv[2]
process.chdir(root)
execFileSync(process.execPath, ['scripts/build.mjs', '--no-types'], { stdio: 'inherit' })
const { openImage } = await import(`${root}dist/index.js`)
rmSync(work, { recursive: true, force: true })
mkdirSync(work, { recursive: true })
process.chdir(work)

const MiB = 1 << 20
const ours = `${root}bin/blockgraph-img`

function qemu(...args) {
  return execFileSync('qemu-img', args, { encoding: 'utf8' })
}

/** 1 GiB: half random data, a quarter text, a quarter holes, mixed in 16 MiB pieces. */
function makeSource(path) {
  const random = randomFillSync(Buffer.alloc(16 * MiB))
  const text = Buffer.from('The quick brown fox jumps over the lazy dog. '.repeat(400000)).subarray(
    0,
    16 * MiB,
  )
  const fd = openSync(path, 'w')
  for (let i = 0; i < 64; i++) {
    if (i % 4 !== 3) {
      writeSync(fd, i % 4 === 2 ? text : random, 0, 16 * MiB, i * 16 * MiB)
    }
  }
  execFileSync('truncate', ['-s', '1G', path])
  closeSync(fd)
}

function seconds(run) {
  const start = process.hrtime.bigint()
  run()
  return Number(process.hrtime.bigint() - start) / 1e9
}

function command(program, args) {
  const { status, stderr } = spawnSync(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  if (status !== 0) {
    throw new Error(`${program} ${args.join(' ')}: exit ${status} ${stderr}`)
  }
}

function commandPair(args, clean) {
  const timed = (program) => {
    clean?.()
    return seconds(() => command(program, args))
  }
  return { ours: () => timed(ours), theirs: () => timed('qemu-img') }
}

/** 4 KiB reads one after the other, spread over the image: seconds per 75,000 as qemu-img bench counts. */
function readPair(path, format) {
  const count = 75000
  const step = 36864
  return {
    ours: async () => {
      const image = await openImage(path, { format })
      const buffer = new Uint8Array(4096)
      const positions = Math.floor(image.size / 4096)
      const start = process.hrtime.bigint()
      for (let i = 0; i < count; i++) {
        const wait = image.node.read(((i * (step / 4096)) % positions) * 4096, 4096, buffer, 0, 0)
        if (wait !== undefined) {
          await wait
        }
      }
      const seconds = Number(process.hrtime.bigint() - start) / 1e9
      await image.close()
      return seconds
    },
    theirs: () => {
      const args = [
        'bench',
        '-f',
        format,
        '-c',
        String(count),
        '-d',
        '1',
        '-s',
        '4096',
        '-S',
        String(step),
        path,
      ]
      return Number(/completed in ([\d.]+)/.exec(qemu(...args))[1])
    },
  }
}

makeSource('source.raw')
qemu('convert', '-O', 'qcow2', 'source.raw', 'source.qcow2')
qemu('create', '-q', '-f', 'qcow2', 'small.qcow2', '1G')
// qemu-img cannot make one where the clock of CPU time is coarse.
const secret = ['--object', 'secret,id=s,data=benchmark']
const luks = 'driver=luks,key-secret=s,file.filename=source.luks'
command(ours, [
  'create',
  '-q',
  ...secret,
  '-f',
  'luks',
  '-o',
  'key-secret=s,iter-time=10',
  'source.luks',
  '1G',
])
const fresh = (name) => () => rmSync(name, { force: true })

const jobs = {
  'read 4 KiB depth 1, raw': readPair('source.raw', 'raw'),
  'read 4 KiB depth 1, qcow2': readPair('source.qcow2', 'qcow2'),
  'convert 1 GiB raw to qcow2': commandPair(
    ['convert', '-f', 'raw', '-O', 'qcow2', 'source.raw', 'out.qcow2'],
    fresh('out.qcow2'),
  ),
  'convert 1 GiB qcow2 to raw': commandPair(
    ['convert', '-f', 'qcow2', '-O', 'raw', 'source.qcow2', 'out.raw'],
    fresh('out.raw'),
  ),
  'convert -c 1 GiB raw to qcow2': commandPair(
    ['convert', '-c', '-f', 'raw', '-O', 'qcow2', 'source.raw', 'outc.qcow2'],
    fresh('outc.qcow2'),
  ),
  'compare raw with qcow2': commandPair([
    'compare',
    '-f',
    'raw',
    '-F',
    'qcow2',
    'source.raw',
    'source.qcow2',
  ]),
  'check qcow2': commandPair(['check', 'source.qcow2']),
  'encrypt 1 GiB raw to luks': commandPair([
    'convert',
    ...secret,
    '-n',
    '--target-image-opts',
    '-S',
    '0',
    '-f',
    'raw',
    'source.raw',
    luks,
  ]),
  'decrypt 1 GiB luks to raw': commandPair(
    ['convert', ...secret, '--image-opts', '-O', 'raw', luks, 'out.raw'],
    fresh('out.raw'),
  ),
  'info on a small image': commandPair(['info', 'small.qcow2']),
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

const results = {}
console.log(`${'job'.padEnd(32)} ${'ours'.padStart(9)} ${'qemu'.padStart(9)}  ratio (min - max)`)
for (const [name, job] of Object.entries(jobs)) {
  if (only !== undefined && !name.includes(only)) {
    continue
  }
  await job.ours()
  await job.theirs()
  const a = []
  const b = []
  for (let i = 0; i < pairs; i++) {
    a.push(await job.ours())
    b.push(await job.theirs())
  }
  const ratios = a.map((value, i) => b[i] / value)
  const result = {
    ours: median(a),
    theirs: median(b),
    ratio: median(ratios),
    min: Math.min(...ratios),
    max: Math.max(...ratios),
    pairs,
  }
  results[name] = result
  const time = (s) => `${(s * 1000).toFixed(0)} ms`.padStart(9)
  console.log(
    `${name.padEnd(32)} ${time(result.ours)} ${time(result.theirs)}  ${result.ratio.toFixed(2)} (${result.min.toFixed(2)} - ${result.max.toFixed(2)})`,
  )
}
if (only === undefined) {
  const machine = { cpus: cpus().length, node: process.version, qemu: qemu('--version').split('\n')[0] }
  writeFileSync(`${root}bench/results.json`, `${JSON.stringify({ machine, results }, null, 2)}\n`)
}
process.chdir(root)
if (existsSync(work) && process.env.KEEP === undefined) {
  rmSync(work, { recursive: true, force: true })
}
