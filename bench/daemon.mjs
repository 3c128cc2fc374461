// Runs block jobs over 1 GiB in blockgraph-storage-daemon and in qemu-storage-daemon in alternation and prints how many
// times as fast ours are: from the command to the end of the job, start of the daemon excluded. PAIRS=5
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { cpus } from 'node:os'
import { median, root } from './measure.mjs'

const work = `${root}bench/work/daemon`
const pairs = Number(process.env.PAIRS ?? 5)
const only = process.argv[2]
process.chdir(root)
if (process.env.BUILT === undefined) {
  execFileSync(process.execPath, ['scripts/build.mjs', '--no-types'], { stdio: 'inherit' })
}
rmSync(work, { recursive: true, force: true })
mkdirSync(work, { recursive: true })
process.chdir(work)

const programs = { ours: `${root}bin/blockgraph-storage-daemon`, qemu: 'qemu-storage-daemon' }
const monitor = `${work}/qmp`

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds))
}

/** A QMP connection: `call` answers a command, `event` waits for one that has come since the last command or comes. */
async function connectMonitor() {
  let socket
  for (let tries = 0; socket === undefined; tries++) {
    socket = await new Promise((resolve, reject) => {
      const one = connect(monitor)
      one.once('connect', () => resolve(one))
      one.once('error', (error) => (tries < 500 ? resolve(undefined) : reject(error)))
    })
    await pause(socket === undefined ? 10 : 0)
  }
  const waiting = []
  let events = []
  let rest = ''
  const settle = () => {
    for (const one of [...waiting]) {
      const found = one.answers(events)
      if (found !== undefined) {
        waiting.splice(waiting.indexOf(one), 1)
        one.resolve(found)
      }
    }
  }
  socket.on('data', (bytes) => {
    const lines = (rest + bytes).split('\n')
    rest = lines.pop()
    events.push(...lines.filter((line) => line.trim() !== '').map((line) => JSON.parse(line)))
    settle()
  })
  const wait = (answers) =>
    new Promise((resolve) => {
      waiting.push({ answers, resolve })
      settle()
    })
  const call = async (execute, args = {}) => {
    events = []
    socket.write(`${JSON.stringify({ execute, arguments: args })}\n`)
    const answer = await wait((all) => all.find((one) => 'return' in one || 'error' in one))
    if ('error' in answer) {
      throw new Error(`${execute}: ${answer.error.desc}`)
    }
  }
  const event = (name) => wait((all) => all.find((one) => one.event === name))
  await wait((all) => all.find((one) => 'QMP' in one))
  await call('qmp_capabilities')
  return { call, event, end: () => socket.destroy() }
}

/** Seconds that `run` takes in a daemon with the two images open. */
async function timed(program, { source, target, run }) {
  rmSync('target', { force: true })
  execFileSync('qemu-img', ['create', '-q', '-f', target, 'target', '1G'])
  execFileSync('sync')
  const node = (name, driver, filename) => [
    '--blockdev',
    JSON.stringify({ driver, 'node-name': name, file: { driver: 'file', filename } }),
  ]
  const nodes = [...node('source', source, `source.${source}`), ...node('target', target, 'target')]
  const chardev = ['--chardev', `socket,id=c,path=${monitor},server=on,wait=off`, '--monitor', 'chardev=c']
  const child = spawn(program, [...nodes, ...chardev], { stdio: ['ignore', 'ignore', 'inherit'] })
  try {
    const qmp = await connectMonitor()
    const start = process.hrtime.bigint()
    await run(qmp)
    const seconds = Number(process.hrtime.bigint() - start) / 1e9
    qmp.end()
    return seconds
  } finally {
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    await ended
  }
}

const job = { 'job-id': 'job', device: 'source', target: 'target', sync: 'full' }

async function mirror(qmp) {
  await qmp.call('blockdev-mirror', job)
  await qmp.event('BLOCK_JOB_READY')
  await qmp.call('job-complete', { id: 'job' })
  await qmp.event('BLOCK_JOB_COMPLETED')
}

async function backup(qmp) {
  await qmp.call('blockdev-backup', job)
  await qmp.event('BLOCK_JOB_COMPLETED')
}

execFileSync('dd', ['if=/dev/urandom', 'of=source.raw', 'bs=1M', 'count=1024'], { stdio: 'ignore' })
execFileSync('qemu-img', ['convert', '-O', 'qcow2', 'source.raw', 'source.qcow2'])
const jobs = {
  'mirror 1 GiB raw to raw': { source: 'raw', target: 'raw', run: mirror },
  'mirror 1 GiB qcow2 to qcow2': { source: 'qcow2', target: 'qcow2', run: mirror },
  'backup 1 GiB raw to raw': { source: 'raw', target: 'raw', run: backup },
  'backup 1 GiB qcow2 to qcow2': { source: 'qcow2', target: 'qcow2', run: backup },
}

console.log(`${'job'.padEnd(32)}      ours      qemu  ratio (min - max)`)
const results = {}
for (const [name, what] of Object.entries(jobs)) {
  if (only !== undefined && !name.includes(only)) {
    continue
  }
  const ours = []
  const qemu = []
  for (let i = 0; i < pairs; i++) {
    // Whoever goes second finds other caches than the first.
    const order = i % 2 === 0 ? ['ours', 'qemu'] : ['qemu', 'ours']
    for (const who of order) {
      ;(who === 'ours' ? ours : qemu).push(await timed(programs[who], what))
    }
  }
  const ratios = qemu.map((seconds, i) => seconds / ours[i])
  const result = {
    ours: median(ours),
    qemu: median(qemu),
    ratio: median(ratios),
    min: Math.min(...ratios),
    max: Math.max(...ratios),
  }
  results[name] = result
  const time = (seconds) => `${(seconds * 1000).toFixed(0)} ms`.padStart(9)
  const spread = `(${result.min.toFixed(2)} - ${result.max.toFixed(2)})`
  console.log(
    `${name.padEnd(32)} ${time(result.ours)} ${time(result.qemu)}  ${result.ratio.toFixed(2)} ${spread}`,
  )
}
if (only === undefined) {
  const machine = { cpus: cpus().length, node: process.version }
  writeFileSync(`${root}bench/daemon-results.json`, `${JSON.stringify({ machine, results }, null, 2)}\n`)
}
process.chdir(root)
rmSync(work, { recursive: true, force: true })
