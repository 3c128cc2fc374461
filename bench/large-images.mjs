// Opens, describes, reads and checks very large qcow2 images with blockgraph and with QEMU's tools in alternation:
// time and peak memory of whole processes, and how many times as much ours needs. Wants GNU time and Linux.
// Memory is the peak of what is resident, shared libraries and program text included, and, from one more run,
// the peak of the part that is the process's own.
//   node bench/large-images.mjs [part of a name]        PAIRS=n: pairs of runs, KEEP=1: keep the images
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const work = `${root}bench/work/large`
const pairs = Number(process.env.PAIRS ?? 3)
const only = process.argv[2] ?? ''
process.chdir(root)
if (process.env.BUILT === undefined) {
  execFileSync(process.execPath, ['scripts/build.mjs', '--no-types'], { stdio: 'inherit' })
}
mkdirSync(work, { recursive: true })
process.chdir(work)

const KiB = 1024
const GiB = 2 ** 30
const TiB = 2 ** 40

/** mulberry32 */
function chooser(seed) {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * below)
  }
}

/** Writes 4 KiB at every `step` bytes, by QEMU. */
function scatter(name, size, step) {
  const commands = []
  for (let at = 0; at < size; at += step) {
    commands.push(`write -P 1 ${at} 4k`)
  }
  execFileSync('qemu-io', ['-f', 'qcow2', '-t', 'unsafe', name], {
    input: `${commands.join('\n')}\n`,
    stdio: ['pipe', 'ignore', 'inherit'],
  })
}

const images = [
  {
    name: '64 TiB, 2 MiB clusters, 4096 in use',
    file: '64t.qcow2',
    size: 64 * TiB,
    // A file system that holds files of 64 TiB is rare, so its clusters cannot all be there.
    make: (file) => {
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', file, '64T'])
      scatter(file, 64 * TiB, 16 * GiB)
    },
  },
  {
    name: '1 TiB, 64 KiB clusters, preallocation=metadata',
    file: '1t.qcow2',
    size: TiB,
    make: (file) => {
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', file, '1T'])
    },
  },
]

const tools = {
  img: { ours: `${root}bin/blockgraph-img`, qemu: 'qemu-img' },
  io: { ours: `${root}bin/blockgraph-io`, qemu: 'qemu-io' },
}

/** Runs a program; returns its seconds and the KiB it had in memory at most. */
function measure(program, args, input) {
  const { status, stderr } = spawnSync(
    '/usr/bin/time',
    ['-q', '-f', '%e %U %S %M', '-o', 'time', program, ...args],
    {
      stdio: ['pipe', 'ignore', 'pipe'],
      input,
    },
  )
  if (status !== 0) {
    throw new Error(`${program} ${args.slice(0, 6).join(' ')}: exit ${status} ${stderr}`)
  }
  const [seconds, user, system, memory] = readFileSync('time', 'utf8').trim().split(' ').map(Number)
  return { seconds, cpu: user + system, memory }
}

/** The most KiB of its own that a program has at a time, looked at as often as can be. */
async function ownMemory(program, args, input = '') {
  writeFileSync('input', input)
  const stdin = openSync('input', 'r')
  const child = spawn(program, args, { stdio: [stdin, 'ignore', 'ignore'] })
  closeSync(stdin)
  let most = 0
  // Nothing is resident in a process that has ended and was not waited for, which the loop prevents.
  for (;;) {
    const [, resident, shared] = readFileSync(`/proc/${child.pid}/statm`, 'utf8').split(' ').map(Number)
    if (resident === 0) {
      break
    }
    most = Math.max(most, resident - shared)
  }
  while (child.exitCode === null) {
    await setTimeout(1)
  }
  return most * 4
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)]
}

function readsOf(size, count) {
  const below = chooser(7)
  const lines = []
  for (let i = 0; i < count; i++) {
    lines.push(`read -q ${below(size / (4 * KiB)) * 4 * KiB} 4k`)
  }
  return `${lines.join('\n')}\n`
}

async function compare(name, tool, args, input, prepare = () => {}) {
  if (!name.includes(only)) {
    return
  }
  const runs = { ours: [], qemu: [] }
  for (let i = 0; i < pairs; i++) {
    for (const side of ['qemu', 'ours']) {
      prepare()
      runs[side].push(measure(tools[tool][side], args, input))
    }
  }
  const of = (side, what) => median(runs[side].map((run) => run[what]))
  const [seconds, cpu, memory] = ['seconds', 'cpu', 'memory'].map((what) => ({
    ours: of('ours', what),
    qemu: of('qemu', what),
  }))
  const own = {}
  for (const side of ['qemu', 'ours']) {
    prepare()
    own[side] = await ownMemory(tools[tool][side], args, input)
  }
  const ratio = ({ ours, qemu }) => `${(ours / Math.max(0.01, qemu)).toFixed(2)} times`
  const mebi = (kibi) => `${Math.round(kibi / KiB)} MiB`
  console.log(
    `${name}: ${seconds.ours.toFixed(2)} s, QEMU ${seconds.qemu.toFixed(2)} s (${ratio(seconds)});` +
      ` CPU ${cpu.ours.toFixed(2)} s, QEMU ${cpu.qemu.toFixed(2)} s (${ratio(cpu)});` +
      ` ${mebi(memory.ours)}, QEMU ${mebi(memory.qemu)} (${ratio(memory)}),` +
      ` its own ${mebi(own.ours)}, QEMU ${mebi(own.qemu)} (${ratio(own)})`,
  )
}

const empty = measure(process.execPath, ['-e', '0'])
const emptyOwn = await ownMemory(process.execPath, ['-e', '0'])
console.log(
  `node alone: ${empty.seconds.toFixed(2)} s, ${Math.round(empty.memory / KiB)} MiB,` +
    ` its own ${Math.round(emptyOwn / KiB)} MiB`,
)
for (const { name, file, size, make } of images) {
  if (!existsSync(file)) {
    rmSync(file, { force: true })
    make(file)
  }
  await compare(`${name}: info`, 'img', ['info', '-f', 'qcow2', file])
  await compare(`${name}: open, one read`, 'io', ['-f', 'qcow2', '-r', '-c', 'read 0 4k', file])
  await compare(`${name}: 20000 random reads`, 'io', ['-f', 'qcow2', '-r', file], readsOf(size, 20000))
  await compare(`${name}: check`, 'img', ['check', '-q', '-f', 'qcow2', file])
}

const created = ['-q', '-f', 'qcow2', '-o', 'cluster_size=512,refcount_bits=64', 'created.qcow2', '64G']
await compare('create: 64 GiB, 512-byte clusters, 64-bit refcounts', 'img', ['create', ...created], '', () =>
  rmSync('created.qcow2', { force: true }),
)

if (process.env.KEEP !== '1') {
  rmSync(work, { recursive: true, force: true })
}
